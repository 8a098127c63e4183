"""The tokens that a model of transformers makes, as it makes them.

transformers' whole generation loop (caches, stopping, every architecture) is used as it is, in its greedy mode: a
logits processor leaves it only the token that octavo's own sampler chose, so no global random state is read or set.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor

from octavo.decoding.sampling import Sampler


def transformers_tokens(
    model: Any,
    prompt: Sequence[int],
    sampler: Sampler,
    max_new_tokens: int,
    stop_tokens: frozenset[int],
    cache: Any = None,
) -> Generator[int, None, None]:
    """Yield the tokens that follow a prompt; where the reader stops, so does the model.

    Args:
        model: a loaded model of transformers.
        prompt: its tokens.
        sampler: chooses.
        max_new_tokens: at most so many.
        stop_tokens: any of them is the last.
        cache: an empty cache of keys and values; None for transformers' own.
    """
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

    tokens: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()
    abandoned = threading.Event()
    given = torch.tensor([list(prompt)], device=model.device)
    stop = sorted(stop_tokens)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=stop or None,
        pad_token_id=stop[0] if stop else 0,
    )

    def abandon(input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return torch.full((len(input_ids),), abandoned.is_set(), device=input_ids.device)

    def run() -> None:
        try:
            with torch.no_grad():
                model.generate(
                    given,
                    attention_mask=torch.ones_like(given),
                    generation_config=config,
                    logits_processor=LogitsProcessorList([_Chosen(sampler)]),
                    stopping_criteria=StoppingCriteriaList([abandon]),
                    streamer=_Streamer(tokens),
                    # Not every model knows the argument.
                    **({} if cache is None else {"past_key_values": cache}),
                )
        except BaseException as error:
            # Raised again by the reader, in its own thread.
            tokens.put(error)

    worker = threading.Thread(target=run, name="octavo-generate", daemon=True)
    worker.start()
    try:
        while (token := tokens.get()) is not None:
            if isinstance(token, BaseException):
                raise token
            yield token
    finally:
        abandoned.set()
        worker.join()


class _Chosen:
    """A logits processor that leaves only the token that a sampler chose."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        token = self._sampler(scores[0].float().cpu())
        return torch.full_like(scores, -torch.inf).index_fill_(1, torch.tensor([token], device=scores.device), 0)


class _Streamer:
    """What transformers calls with the prompt, and then with every token."""

    def __init__(self, tokens: queue.SimpleQueue[int | BaseException | None]) -> None:
        self._tokens = tokens
        self._prompt = True

    def put(self, value: Tensor) -> None:
        if not self._prompt:
            self._tokens.put(int(value))
        self._prompt = False

    def end(self) -> None:
        self._tokens.put(None)
