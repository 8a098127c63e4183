"""A trainable decoder with the weights of a checkpoint."""

from __future__ import annotations

import torch

from octavo.base.errors import CheckpointError
from octavo.checkpoints import Checkpoint
from octavo.layers.normalization import RMSNorm
from octavo.models.decoder_config import DecoderConfig
from octavo.models.transformer import (
    FeedForwardConstructor,
    GatedFeedForward,
    LinearConstructor,
    NormConstructor,
    Transformer,
)


@torch.no_grad()
def load_transformer(
    checkpoint: Checkpoint,
    *,
    linear: LinearConstructor = torch.nn.Linear,
    norm: NormConstructor = RMSNorm,
    feed_forward: FeedForwardConstructor = GatedFeedForward,
) -> Transformer:
    """Build the trainable decoder of a dense checkpoint, in float32, one tensor at a time.

    Args:
        checkpoint: with names of Hugging Face.
        linear, norm, feed_forward: as of `Transformer`.

    Raises:
        ModelError: another architecture, or sizes that make no sense.
        CheckpointError: a tensor is missing, unknown, packed, or of another shape than config.json says.
    """
    model = Transformer(
        DecoderConfig.from_huggingface(checkpoint.config), linear=linear, norm=norm, feed_forward=feed_forward
    )
    own = dict(model.named_parameters())
    # Old checkpoints hold the rotary frequencies, which follow from the config.
    stored = {name for name in checkpoint.entries if not name.endswith("rotary_emb.inv_freq")}
    if odd := sorted(stored ^ own.keys()):
        where = "the model has no" if odd[0] in stored else "the checkpoint lacks the"
        raise CheckpointError(f"{where} tensor {odd[0]}", "give a dense checkpoint that config.json belongs to")
    for name, parameter in own.items():
        if (found := checkpoint.entries[name].shape) != tuple(parameter.shape):
            raise CheckpointError(
                f"tensor {name} is {list(found)}, and config.json makes it {list(parameter.shape)}",
                "config.json does not belong to these weights",
            )
        parameter.copy_(checkpoint.read(name))
    return model
