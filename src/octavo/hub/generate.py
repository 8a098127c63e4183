"""Generate text from any model octavo can load, piece by piece as it is made.

Sampling is Gumbel-max: to every logit over the temperature noise is added from the caller's own seeded generator, and
the largest wins, which draws exactly from the softmax. So transformers' whole generation loop (caches, stopping, every
architecture) is used as it is, in its greedy mode, and no global random state is read or set.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from octavo.base.errors import ModelError
from octavo.models.cache_format import CacheFormat

if TYPE_CHECKING:
    from octavo.models.cache import QuantizedCache


def generate(
    source: str | Path | tuple[Any, Any],
    prompt: str,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    *,
    chat: bool = False,
    cache: QuantizedCache | CacheFormat | str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Iterator[str]:
    """Yield the continuation of `prompt` in pieces of text whose concatenation is the whole answer.

    Args:
        source: a model directory (dense or octavo), GGUF file, embedded or hub name; or a loaded (model, tokenizer).
        prompt: the text to go on from, or with `chat` the user's message.
        max_new_tokens: at most so many tokens; fewer where the model ends its text.
        temperature: 0 takes the likeliest token; above, tokens are drawn from softmax(logits / temperature).
        seed: seed of the draw's own generator.
        chat: wrap the prompt by the tokenizer's chat template.
        cache: how to keep keys and values of old tokens, e.g. "int@4 b32", or an empty cache to ask afterwards what it
            took; default: as they are.
        dtype: dtype to compute in, where `source` is to be loaded.
        device: where to compute, where `source` is to be loaded.

    Raises:
        ModelError: the model has no tokenizer, the tokenizer has no chat template, the prompt has no tokens, or the
            model keeps no keys and values that could be quantized.
        FormatError: `cache` is no format of a cache.
    """
    if isinstance(cache, str):
        cache = CacheFormat.parse(cache)
    if temperature < 0 or max_new_tokens < 1:
        raise ModelError(
            f"temperature {temperature} with {max_new_tokens} new tokens makes no sense",
            "use a temperature of at least 0 and at least one token",
        )
    if isinstance(source, tuple):
        model, tokenizer = source
    else:
        from octavo.models import load_language_model

        model, tokenizer = load_language_model(source, dtype=dtype)
        model.to(device)
    if tokenizer is None:
        raise ModelError("the model has no tokenizer", "put its tokenizer.json beside config.json")
    kept = _cache(model, cache)
    return _stream(model, tokenizer, _encode(tokenizer, prompt, chat), kept, max_new_tokens, temperature, seed)


def _cache(model: Any, cache: QuantizedCache | CacheFormat | None) -> QuantizedCache | None:
    if isinstance(cache, CacheFormat):
        from octavo.models.cache import QuantizedCache

        return QuantizedCache(model.config, cache)
    if cache is not None and cache.get_seq_length():
        raise ModelError("the cache holds tokens of another text", "give an empty one")
    return cache


def _encode(tokenizer: Any, prompt: str, chat: bool) -> Tensor:
    if chat:
        if not getattr(tokenizer, "chat_template", None):
            raise ModelError("the tokenizer has no chat template", "leave out --chat")
        message = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        # The template has placed the special tokens itself.
        tokens = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    else:
        tokens = tokenizer(prompt, return_tensors="pt").input_ids
    if tokens.numel() == 0:
        if tokenizer.bos_token_id is None:
            raise ModelError("the prompt has no tokens", "give a prompt")
        tokens = torch.tensor([[tokenizer.bos_token_id]])
    return tokens.long()


def _stream(
    model: Any,
    tokenizer: Any,
    tokens: Tensor,
    cache: QuantizedCache | None,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> Iterator[str]:
    from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList, TextIteratorStreamer

    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    abandoned = threading.Event()
    failure: queue.SimpleQueue[BaseException] = queue.SimpleQueue()
    own = model.generation_config
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id,
        pad_token_id=own.pad_token_id if own.pad_token_id is not None else tokenizer.eos_token_id,
    )
    device = model.device
    tokens = tokens.to(device)
    processors = []
    if temperature > 0:
        processors.append(_Gumbel(temperature, torch.Generator().manual_seed(seed)))

    def stop(input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return torch.full((len(input_ids),), abandoned.is_set(), device=input_ids.device)

    def run() -> None:
        try:
            with torch.no_grad():
                model.generate(
                    tokens,
                    attention_mask=torch.ones_like(tokens),
                    generation_config=config,
                    logits_processor=LogitsProcessorList(processors),
                    stopping_criteria=StoppingCriteriaList([stop]),
                    streamer=streamer,
                    # Not every model knows the argument.
                    **({} if cache is None else {"past_key_values": cache}),
                )
        except BaseException as error:
            # Raised again by the reader, in its own thread.
            failure.put(error)
            streamer.on_finalized_text("", stream_end=True)

    worker = threading.Thread(target=run, name="octavo-generate", daemon=True)
    worker.start()
    try:
        yield from (piece for piece in streamer if piece)
    finally:
        abandoned.set()
        worker.join()
    if not failure.empty():
        raise failure.get()


class _Gumbel:
    """A logits processor after which the largest logit is a draw from softmax(logits / temperature)."""

    def __init__(self, temperature: float, generator: torch.Generator) -> None:
        self._temperature = temperature
        self._generator = generator

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # Drawn on the CPU, so that a seed means the same on every device.
        uniform = torch.rand(scores.shape, generator=self._generator, dtype=torch.float64)
        noise = -(-uniform.clamp_min(torch.finfo(torch.float64).tiny).log()).log()
        return (scores.double() / self._temperature + noise.to(scores.device)).float()
