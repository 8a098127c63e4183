"""The `quantization_config` of an octavo directory: which tensors are quantized, and by which format."""

from __future__ import annotations

from typing import Any

from transformers.utils.quantization_config import QuantizationConfigMixin

from octavo.base.errors import CheckpointError
from octavo.hub import QUANT_METHOD, VERSION


class OctavoConfig(QuantizationConfigMixin):
    """What config.json says about an octavo checkpoint.

    Args:
        tensors: by tensor name in the checkpoint: {"format": format string, "shape": [...], "dtype": original dtype}.
        version: version of the layout; this release reads version 1.
        extra: any other entry of the file, kept as it is.

    Raises:
        CheckpointError: a version this release does not know, or an entry that lacks a field.
    """

    def __init__(
        self,
        tensors: dict[str, dict[str, Any]] | None = None,
        version: int = VERSION,
        quant_method: str = QUANT_METHOD,
        **extra: Any,
    ) -> None:
        if version != VERSION:
            raise CheckpointError(
                f"this checkpoint has octavo layout version {version!r}, and this release reads version {VERSION}",
                "update octavo",
            )
        # transformers annotates an enum; registered methods are plain strings.
        self.quant_method = quant_method  # pyright: ignore[reportAttributeAccessIssue]
        self.version = version
        self.tensors = tensors or {}
        for name, entry in self.tensors.items():
            if not isinstance(entry, dict) or not {"format", "shape"} <= entry.keys():
                raise CheckpointError(
                    f"config.json: the quantization entry of {name} lacks its format or shape",
                    "the checkpoint is damaged; compress the model again",
                )
        self.__dict__.update(extra)
