"""Reads a decoder's weights from a checkpoint, one tensor at a time, packed ones as they are packed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, get_args

import torch
from torch import Tensor

from octavo.base.arithmetic import Arithmetic
from octavo.base.errors import CheckpointError, ModelError
from octavo.base.huge_pages import use_huge_pages
from octavo.base.keeping import Keeping
from octavo.base.memory import give_back_memory
from octavo.formats.entropy_coded import stream_of
from octavo.formats.resident import resident
from octavo.formats.tensor import QuantizedTensor
from octavo.layers.embedding import Embedding
from octavo.layers.linear import Linear, Weight, stacked, tensors_of
from octavo.models.decoder import Decoder, Layer
from octavo.models.decoder_config import ORIGINAL, DecoderConfig
from octavo.models.decoder_names import from_huggingface, to_huggingface


class Weights(Protocol):
    """A checkpoint by Hugging Face names of tensors, whether packed or dense, as octavo.hub.stored opens it."""

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def activations(self) -> dict[str, Any] | None: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def quantized(self, name: str) -> QuantizedTensor | None: ...

    def dense(self, name: str) -> Tensor: ...


def load_decoder(
    weights: Weights,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    arithmetic: Arithmetic = "exact",
    keep: Keeping = "resident",
) -> Decoder:
    """Build the decoder of a checkpoint, ready to run.

    Memory: the weights, and what the largest fused product takes while its pieces are put together. Entropy-coded
    tensors, and codes of levels that are no power of two, are brought to the form that they are computed in
    (octavo.formats.resident), which may be larger, unless they are kept as they are stored: then each product decodes
    them, piece by piece, and computes in float32, whatever the arithmetic.

    Args:
        weights: the checkpoint.
        dtype: of what is dense, and to compute in; matrices in bfloat16 stay so on a CPU that computes in float32.
        device: where to.
        arithmetic: of products with packed matrices (octavo.kernels.product). With "int8" prompts are read in bfloat16.
        keep: the form of packed matrices in memory.

    Raises:
        ModelError: another architecture, sizes that make no sense, layers that round or transform their inputs, or an
            unknown arithmetic or form.
        CheckpointError: a tensor is missing, unknown, damaged or of another shape than config.json says.
    """
    config = DecoderConfig.from_huggingface(weights.config)
    if weights.activations is not None:
        raise ModelError("the decoder takes the inputs of layers as they are, and this model does not", ORIGINAL)
    if arithmetic not in get_args(Arithmetic):
        raise ModelError(f"there is no arithmetic {arithmetic!r}", f"choose {' or '.join(get_args(Arithmetic))}")
    if keep not in get_args(Keeping):
        raise ModelError(f"weights cannot be kept {keep!r}", f"choose {' or '.join(get_args(Keeping))}")
    reader = _Reader(weights, dtype, torch.device(device), arithmetic, keep)
    hidden, inner, vocabulary = config.hidden, config.inner, config.vocabulary
    channels, shared = config.heads * config.rotary.width, config.shared_heads * config.rotary.width
    # The largest first, since what is decoded on the way to it is largest, too.
    embedding = reader.matrix("embedding.weight", vocabulary, hidden)
    tied = config.tied and to_huggingface("head.weight") not in weights.names
    top = embedding if tied else reader.matrix("head.weight", vocabulary, hidden)
    give_back_memory()
    layers = []
    for number, window in enumerate(config.windows):
        start = f"layers.{number}."
        norms = ("query_norm", "key_norm") if config.head_norms else ()
        head_norms = [reader.vector(f"{start}attention.{norm}.weight", config.rotary.width) for norm in norms]
        queries_keys_values = {f"{start}attention.query": channels}
        queries_keys_values |= {f"{start}attention.{name}": shared for name in ("key", "value")}
        layers.append(
            Layer(
                reader.vector(f"{start}attention_norm.weight", hidden),
                reader.vector(f"{start}inner_norm.weight", hidden),
                *(head_norms or (None, None)),
                attention=reader.linear(queries_keys_values, hidden, config.attention_bias),
                output=reader.linear({f"{start}attention.output": hidden}, channels, config.output_bias),
                inner=reader.linear(
                    {f"{start}inner.{name}": inner for name in ("gate", "up")}, hidden, config.inner_bias
                ),
                down=reader.linear({f"{start}inner.down": hidden}, inner, config.inner_bias),
                window=window,
            )
        )
        give_back_memory()
    norm = reader.vector("norm.weight", hidden)
    head = Linear((top,), arithmetic=arithmetic)
    reader.check_all_read()
    if reader.device.type == "cpu":
        linears = [each for layer in layers for each in (layer.attention, layer.output, layer.inner, layer.down)]
        weights_read = [embedding, *(piece for linear in (*linears, head) for piece in linear.pieces)]
        use_huge_pages({part.data_ptr(): part for weight in weights_read for part in tensors_of(weight)}.values())
    prompt_dtype = torch.bfloat16 if arithmetic == "int8" else dtype
    return Decoder(config, Embedding(embedding), tuple(layers), norm, head, dtype, prompt_dtype, torch.device(device))


class _Reader:
    """Reads tensors by the decoder's names, each of the shape that it must have."""

    def __init__(
        self, weights: Weights, dtype: torch.dtype, device: torch.device, arithmetic: Arithmetic, keep: Keeping
    ) -> None:
        self.weights, self.dtype, self.device, self.keep = weights, dtype, device, keep
        self.arithmetic: Arithmetic = arithmetic
        self.known = frozenset(weights.names)
        self.left = set(weights.names)

    def vector(self, name: str, size: int) -> Tensor:
        stored = self._checked(name, (size,))
        return self._finite(stored, self.weights.dense(stored)).to(self.device, self.dtype)

    def matrix(self, name: str, rows: int, columns: int) -> Weight:
        stored = self._checked(name, (rows, columns))
        quantized = self.weights.quantized(stored)
        if quantized is None:
            return self._placed(self.weights.dense(stored))
        for part in quantized.parts.values():
            self._finite(stored, part)
        try:
            quantized = resident(quantized) if self.keep == "resident" else _sound(quantized)
        except CheckpointError as error:
            raise CheckpointError(f"tensor {stored}: {error.problem}", error.remedy) from error
        parts = {part: value.to(self.device) for part, value in quantized.parts.items()}
        return QuantizedTensor(quantized.format, quantized.shape, parts)

    def _placed(self, matrix: Tensor) -> Tensor:
        # On a CPU the step widens bfloat16 as it reads, exactly, so that half the bytes are read.
        widened = matrix.dtype == torch.bfloat16 and self.dtype == torch.float32 and self.device.type == "cpu"
        return matrix if widened else matrix.to(self.device, self.dtype)

    def linear(self, sizes: Mapping[str, int], columns: int, bias: bool) -> Linear:
        """The matrices of these names and numbers of rows on top of each other."""
        pieces = stacked([self.matrix(f"{name}.weight", rows, columns) for name, rows in sizes.items()])
        biases = [self.vector(f"{name}.bias", rows) for name, rows in sizes.items()] if bias else []
        return Linear(pieces, torch.cat(biases) if biases else None, self.arithmetic)

    def check_all_read(self) -> None:
        """CheckpointError if a tensor is left that would have changed what the model computes."""
        # Old checkpoints hold the rotary frequencies, which follow from the config.
        left = sorted(name for name in self.left if not name.endswith("rotary_emb.inv_freq"))
        if left:
            why = "the decoder does not know" if from_huggingface(left[0]) is None else "config.json does not ask for"
            raise CheckpointError(
                f"the model has the tensor {left[0]}, which {why}", "config.json does not belong to these weights"
            )

    def _checked(self, name: str, shape: tuple[int, ...]) -> str:
        stored = to_huggingface(name)
        if stored not in self.known:
            raise CheckpointError(f"the model lacks the tensor {stored}", "fetch the model again")
        if (found := self.weights.shape(stored)) != shape:
            raise CheckpointError(
                f"tensor {stored} is {list(found)}, and config.json makes it {list(shape)}",
                "config.json does not belong to these weights",
            )
        self.left.discard(stored)
        return stored

    @staticmethod
    def _finite(name: str, values: Tensor) -> Tensor:
        if not values.is_floating_point() or not values.numel():
            return values
        # Narrow floats compare nothing themselves; of the others nothing is copied.
        extremes = (values.float() if values.element_size() == 1 else values).aminmax()
        if not all(math.isfinite(extreme) for extreme in extremes):
            raise CheckpointError(f"tensor {name} holds values that are not finite", "copy or compress the model again")
        return values


def _sound(quantized: QuantizedTensor) -> QuantizedTensor:
    """The tensor itself; CheckpointError if it is a stream that begins with damage. Its words are not decoded yet."""
    if "coded" in quantized.parts:
        stream_of(quantized)
    return quantized
