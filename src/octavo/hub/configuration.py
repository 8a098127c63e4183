"""The `quantization_config` of an octavo directory: which tensors are quantized, and how; and the inputs."""

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
        activations: what linear layers do to their inputs (octavo.transforms.serving); None is nothing.
        unknown: any other entry of the file.

    Raises:
        CheckpointError: a version or an entry that this release does not know, or an entry that lacks a field.
        FormatError: activations in a format that it does not know.
    """

    def __init__(
        self,
        tensors: dict[str, dict[str, Any]] | None = None,
        version: int = VERSION,
        quant_method: str = QUANT_METHOD,
        activations: dict[str, Any] | None = None,
        **unknown: Any,
    ) -> None:
        if version != VERSION:
            raise CheckpointError(
                f"this checkpoint has octavo layout version {version!r}, and this release reads version {VERSION}",
                "update octavo",
            )
        if unknown:
            # What is not understood may change what the model computes.
            raise CheckpointError(
                f"config.json: this release does not know the quantization entry {min(unknown)!r}", "update octavo"
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
        if activations is not None:
            from octavo.transforms.serving import Activations

            Activations.from_json(activations)
            self.activations = activations
