"""Generate text from any model octavo can load, piece by piece as it is made."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from octavo.base.errors import ModelError
from octavo.decoding.engine import Engine
from octavo.decoding.sampling import Sampler, Sampling
from octavo.decoding.text import TextStream
from octavo.hub.text_model import TextModel, load_text_model, transformers_model
from octavo.hub.transformers_tokens import transformers_tokens
from octavo.models.cache_format import CacheFormat
from octavo.models.decoder import Decoder

if TYPE_CHECKING:
    from octavo.models.cache import QuantizedCache


def generate(
    source: str | Path | tuple[Any, Any] | TextModel,
    prompt: str,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    *,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    stop: Sequence[str] = (),
    chat: bool = False,
    cache: QuantizedCache | CacheFormat | str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Iterator[str]:
    """Yield the continuation of `prompt` in pieces of text whose concatenation is the whole answer.

    Args:
        source: a model directory (dense or octavo), GGUF file, embedded or hub name; a loaded `TextModel`; or a
            (model, tokenizer) of transformers.
        prompt: the text to go on from, or with `chat` the user's message.
        max_new_tokens: at most so many tokens; fewer where the model ends its text, or its context is full.
        temperature: 0 takes the likeliest token; above, tokens are drawn from softmax(logits / temperature).
        seed: seed of the draw's own generator.
        top_k, top_p, min_p, repetition_penalty: see octavo.decoding.sampling.Sampling.
        stop: strings that end the answer, and do not belong to it.
        chat: wrap the prompt by the tokenizer's chat template.
        cache: how to keep keys and values of old tokens, e.g. "int@4 b32", or an empty cache to ask afterwards what it
            took; default: as they are.
        dtype: dtype to compute in, where `source` is to be loaded.
        device: where to compute, where `source` is to be loaded.

    Raises:
        ModelError: the model has no tokenizer, the tokenizer has no chat template, the prompt has no tokens or more
            than the context, a setting makes no sense, or the model keeps no keys and values that could be quantized.
        FormatError: `cache` is no format of a cache.
    """
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed)
    if max_new_tokens < 1:
        raise ModelError(f"{max_new_tokens} new tokens make no sense", "ask for at least one")
    if isinstance(cache, str):
        cache = CacheFormat.parse(cache)
    if isinstance(source, tuple):
        model = transformers_model(*source, reason="the model was loaded there")
    elif isinstance(source, TextModel):
        model = source
    else:
        model = load_text_model(source, dtype, device, packed_cache=cache is not None)
    tokens = _encode(model.tokenizer, prompt, chat)
    made = _made(model, tokens, sampling, max_new_tokens, cache)
    return _pieces(made, TextStream(model.tokenizer, stop), model.stop_tokens)


def _made(
    model: TextModel,
    prompt: list[int],
    sampling: Sampling,
    max_new_tokens: int,
    cache: QuantizedCache | CacheFormat | None,
) -> Generator[int, None, None]:
    """The tokens that follow a prompt; a stop token may be the last."""
    network = model.network
    if not isinstance(network, Decoder):
        sampler = Sampler(sampling, prompt, network.config.get_text_config().vocab_size)
        kept = _cache(network, cache)
        return transformers_tokens(network, prompt, sampler, max_new_tokens, model.stop_tokens, kept)
    if cache is not None:
        raise ModelError("octavo's decoder keeps keys and values as they are", "load the model for a quantized cache")
    context = min(network.config.context, len(prompt) + max_new_tokens)
    engine = Engine(network, 1, context)
    engine.admit(prompt, sampling, max_new_tokens, model.stop_tokens)
    return _steps(engine)


def _steps(engine: Engine) -> Generator[int, None, None]:
    while not engine.free:
        yield from (emitted.token for emitted in engine.step())


def _pieces(tokens: Generator[int, None, None], text: TextStream, stop_tokens: frozenset[int]) -> Iterator[str]:
    try:
        for token in tokens:
            if token in stop_tokens:
                break
            if piece := text.push(token):
                yield piece
            if text.stopped:
                return
        if rest := text.finish():
            yield rest
    finally:
        tokens.close()


def _cache(model: Any, cache: QuantizedCache | CacheFormat | None) -> QuantizedCache | None:
    if isinstance(cache, CacheFormat):
        from octavo.models.cache import QuantizedCache

        return QuantizedCache(model.config, cache)
    if cache is not None and cache.get_seq_length():
        raise ModelError("the cache holds tokens of another text", "give an empty one")
    return cache


def _encode(tokenizer: Any, prompt: str, chat: bool) -> list[int]:
    if chat:
        if not getattr(tokenizer, "chat_template", None):
            raise ModelError("the tokenizer has no chat template", "leave out --chat")
        message = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        # The template has placed the special tokens itself.
        tokens = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    else:
        tokens = tokenizer(prompt, verbose=False).input_ids
    if not tokens:
        if tokenizer.bos_token_id is None:
            raise ModelError("the prompt has no tokens", "give a prompt")
        tokens = [tokenizer.bos_token_id]
    return tokens
