"""What a run takes, said before it begins: parameters, operations, and memory item by item."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from octavo.models.decoder_config import DecoderConfig
from octavo.models.transformer import Transformer
from octavo.training.configuration import TrainingConfig
from octavo.training.objective import next_token_loss


@dataclass(frozen=True)
class Account:
    """Sizes of a run on one process.

    Attributes:
        parameters: of the model.
        embedding_parameters: of these, the embedding's.
        tokens: that are trained on.
        operations: floating-point operations: six for each parameter and token, without the embedding unless it is also
            the head (Kaplan et al., 2020, https://arxiv.org/abs/2001.08361, section 2.1).
        weights, gradients, optimizer: bytes in float32, two moments for a weight.
        activations: bytes that the forward pass keeps for the backward pass, and the gradient of the logits.
    """

    parameters: int
    embedding_parameters: int
    tokens: int
    operations: float
    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def memory(self) -> int:
        """Bytes of all."""
        return self.weights + self.gradients + self.optimizer + self.activations


def account(model: DecoderConfig, config: TrainingConfig) -> Account:
    """The sizes of training a decoder with AdamW on next tokens; nothing of them is allocated."""
    with FakeTensorMode():
        made = Transformer(model)
        parameters = sum(parameter.numel() for parameter in made.parameters())
    embedding = model.vocabulary * model.hidden
    tokens = config.steps * config.optimizer.accumulation * config.data.batch * config.data.length
    multiplied = parameters if model.tied else parameters - embedding
    # Blocks are alike, so two models tell what one more block keeps.
    one, two = (_kept(dataclasses.replace(model, windows=model.windows[:1] * layers), config) for layers in (1, 2))
    block, rest = two - one, 2 * one - two
    kept = rest + model.layers * block
    if config.precision.recompute:
        places = config.data.batch * config.data.length
        kept = rest + block + (model.layers - 1) * places * model.hidden * 4
    logits = config.data.batch * config.data.length * model.vocabulary * 4
    return Account(
        parameters=parameters,
        embedding_parameters=embedding,
        tokens=tokens,
        operations=6.0 * multiplied * tokens,
        weights=4 * parameters,
        gradients=4 * parameters,
        optimizer=8 * parameters,
        # Of the loss with respect to the log-probabilities and to the logits, both at once.
        activations=kept + 2 * logits,
    )


def _kept(model: DecoderConfig, config: TrainingConfig) -> int:
    """Bytes that the forward pass keeps, weights left out; found by running it on tensors without memory."""
    storages: dict[int, tuple[Any, int]] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # The storage itself is kept too, so that its number is not given to another.
        storages[storage._cdata] = storage, storage.nbytes()
        return tensor

    narrow = config.precision.dtype == "bfloat16"
    with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16) if narrow else contextlib.nullcontext():
        made = Transformer(model)
        tokens = torch.zeros(config.data.batch, config.data.length + 1, dtype=torch.int64)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            next_token_loss(made, {"tokens": tokens}, torch.Generator())
        own = {tensor.untyped_storage()._cdata for tensor in (*made.parameters(), *made.buffers())}
    return sum(nbytes for number, (_, nbytes) in storages.items() if number not in own)
