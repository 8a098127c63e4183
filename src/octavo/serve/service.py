"""What the routes work with: a model, its scheduler, and how a request becomes a job."""

from __future__ import annotations

import asyncio
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from octavo.decoding.sampling import Sampling
from octavo.decoding.text import TextStream
from octavo.serve.answers import Answer, post_to
from octavo.serve.errors import ApiError
from octavo.serve.metrics import Metrics
from octavo.serve.opening import ServedModel
from octavo.serve.prompts import conversation_tokens, text_tokens
from octavo.serve.scheduler import Job, Scheduler
from octavo.serve.schemas import ChatRequest, CompletionRequest, GenerationRequest

# Of /v1/completions, as OpenAI has it; a chat may take what is left of the context.
COMPLETION_TOKENS = 16


class Service:
    """A model at work; made on the event loop that serves it.

    Args:
        model: what is served.
        queue: requests that may wait when every slot is taken.
        wait: seconds that text of one of several streams may wait for more of it.
        metrics: where all of it is counted.

    Attributes:
        started: seconds since 1970.
    """

    def __init__(self, model: ServedModel, queue: int, wait: float, metrics: Metrics) -> None:
        self.model = model
        self.metrics = metrics
        self.started = int(time.time())
        # One thread: tokenizers are not made to be used from several, and long prompts must not hold up the loop.
        self._encoding = ThreadPoolExecutor(1, thread_name_prefix="octavo-encode")
        post = partial(post_to, asyncio.get_running_loop())
        self._scheduler = Scheduler(model.engine, queue, post, metrics, wait)

    @property
    def healthy(self) -> bool:
        """Whether requests are served."""
        return self._scheduler.running

    def close(self) -> None:
        """Drop all requests and stop."""
        self._scheduler.close()
        self._encoding.shutdown(cancel_futures=True)

    async def open(self, request: CompletionRequest | ChatRequest) -> Answer:
        """Put a request to the engine.

        Raises:
            ApiError: it names another model, or does not fit into the context.
            ModelError: its prompt cannot be made tokens.
            QueueFullError: too many requests are waiting.
            EngineStoppedError: no request will be served any more.
        """
        if request.model != self.model.name:
            raise unknown_model(request.model, self.model.name)
        self._scheduler.check_room()
        prompt = await self._tokens(request)
        default = COMPLETION_TOKENS if isinstance(request, CompletionRequest) else None
        job = Job(tuple(prompt), _sampling(request), self._room(request, len(prompt), default), self.model.stop_tokens)
        return Answer(self._scheduler, job, TextStream(self.model.tokenizer, request.stop))

    async def _tokens(self, request: CompletionRequest | ChatRequest) -> list[int]:
        if isinstance(request, ChatRequest):
            messages = [message.model_dump(exclude_none=True) for message in request.messages]
            work = partial(conversation_tokens, self.model.tokenizer, messages)
        elif isinstance(request.prompt, list):
            return request.prompt
        else:
            work = partial(text_tokens, self.model.tokenizer, request.prompt)
        return await asyncio.get_running_loop().run_in_executor(self._encoding, work)

    def _room(self, request: GenerationRequest, prompt: int, default: int | None) -> int:
        """How many tokens the answer may have."""
        context = self.model.context
        left = context - prompt
        if left < 1:
            problem = f"the prompt has {prompt} tokens, and the model's context is {context} for prompt and answer"
            raise ApiError(400, problem, "context_length_exceeded")
        if request.max_tokens is None:
            return left if default is None else min(default, left)
        if request.max_tokens > left:
            problem = f"{prompt} tokens of prompt and {request.max_tokens} of answer exceed the context of {context}"
            raise ApiError(400, problem, "context_length_exceeded", "max_tokens")
        return request.max_tokens


def unknown_model(asked: str, served: str) -> ApiError:
    """The answer to a request for a model that is not here."""
    return ApiError(404, f"there is no model {asked!r} here, only {served!r}", "model_not_found", "model")


def _sampling(request: GenerationRequest) -> Sampling:
    return Sampling(
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        # Without a seed, no two answers are drawn alike.
        seed=secrets.randbits(63) if request.seed is None else request.seed,
    )
