"""From a network that was trained with quantized weights to a checkpoint that holds exactly these.

transformers loads the directory through octavo's quantizer, and octavo.decoding runs it, weights packed in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed
from torch import Tensor

from octavo.base.progress import SILENT, Progress
from octavo.formats.tensor import QuantizedTensor
from octavo.layers.fake_quantized import FakeQuantizedLinear
from octavo.models.saving import write_huggingface
from octavo.models.transformer import Transformer
from octavo.training.state import gathered

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def export_quantized(
    model: Transformer,
    tokenizer: Tokenizer | None,
    directory: str | Path,
    *,
    end: str | None = None,
    dtype: torch.dtype = torch.bfloat16,
    progress: Progress = SILENT,
) -> None:
    """Write a network as an octavo checkpoint.

    The codes and scales are those that its last forward pass computed with. All that has no format (embedding, head,
    norms, biases) is rounded to `dtype`; where the network trained with more precision than that, its logits move by as
    much, and in float32 not at all.

    Processes that share the network all call this, before they part: the first writes, from what all gather.

    Args:
        model: the network; layers that no format was given are written as they are.
        tokenizer: None for none.
        directory: must not exist yet.
        end: the token between documents, at which generation stops.
        dtype: of all that is not quantized.
        progress: told how far the writing is.

    Raises:
        OutputError: the directory exists, or cannot be written.
        ModelError: no family of Hugging Face computes this.
    """
    tensors = quantized_tensors(model)
    if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank():
        for _ in tensors:
            pass
    else:
        write_huggingface(tensors, model.config, tokenizer, directory, end, dtype, progress)


@torch.no_grad()
def quantized_tensors(model: Transformer) -> Iterator[tuple[str, Tensor | QuantizedTensor]]:
    """Each parameter by its name, those of quantized layers as the tensors that stand for them."""
    frozen = {
        f"{name}.weight": layer.frozen
        for name, layer in model.named_modules()
        if isinstance(layer, FakeQuantizedLinear) and layer.frozen is not None
    }
    for name, parameter in model.named_parameters():
        whole = gathered(parameter)
        yield name, frozen[name].quantize(whole) if name in frozen else whole
