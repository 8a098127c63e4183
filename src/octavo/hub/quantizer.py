"""The transformers quantizer of method "octavo": loads packed weights, keeps them packed, saves them back.

transformers imports this module in the middle of importing itself (see `octavo.hub.hook`), so that what needs the rest
of transformers, or of octavo, is imported where it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.quantizers.base import HfQuantizer

from octavo.base.errors import CheckpointError, ModelError
from octavo.hub.configuration import OctavoConfig

if TYPE_CHECKING:
    from octavo.hub.packed import PackedTensor


class OctavoQuantizer(HfQuantizer):
    """Loads an octavo directory through `from_pretrained`; see `octavo.hub.assembly` for how."""

    requires_calibration = True
    quantization_config: OctavoConfig  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, quantization_config: OctavoConfig, **kwargs: Any) -> None:
        if not kwargs.get("pre_quantized", True):
            raise ModelError("octavo does not quantize while loading", "run `octavo compress MODEL OUT --bits B` first")
        super().__init__(quantization_config, **kwargs)
        self._packed: dict[str, PackedTensor] = {}
        self._kept: frozenset[str] = frozenset()
        self._buffers: frozenset[str] = frozenset()

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        from octavo.hub.assembly import assemble
        from octavo.hub.headers import read_headers

        files = kwargs.get("checkpoint_files")
        if not files or not all(str(file).endswith(".safetensors") for file in files):
            raise CheckpointError(
                "an octavo model is loaded from its directory of safetensors files", "pass the directory's path"
            )
        dtype = kwargs.get("dtype") or model.dtype
        if not isinstance(dtype, torch.dtype):
            dtype = model.dtype
        assembly = assemble(model, self.quantization_config.tensors, read_headers(files), dtype)
        self._packed, self._kept = assembly.packed, assembly.kept
        self._buffers = frozenset(f"{key}.{part}" for key, t in self._packed.items() for part in t.part_names)
        entry = getattr(self.quantization_config, "activations", None)
        if entry is not None:
            from octavo.transforms.serving import Activations, serve

            serve(model, Activations.from_json(entry))

    def update_weight_conversions(self, weight_conversions: list[Any], model: Any) -> list[Any]:
        """transformers' conversions, made to leave packed tensors alone."""
        from transformers.core_model_loading import WeightConverter

        from octavo.hub.naming import excepting

        kept = self._kept
        if not kept:
            return weight_conversions
        return [excepting(rule, kept) if isinstance(rule, WeightConverter) else rule for rule in weight_conversions]

    def update_attn_implementation(self, config: Any) -> Any:
        """Experts one at a time unless asked otherwise: fused kernels would have all of a layer's dense at once."""
        if getattr(config, "_experts_implementation", None) is None:
            config._experts_implementation = "eager"
        return config

    def get_new_dtype(self, converter: Any, param: Any, dtype: torch.dtype | None) -> torch.dtype | None:
        """Parts keep the dtype they have in the file."""
        if self._buffers.intersection(getattr(converter, "target_patterns", ())):
            return None
        return super().get_new_dtype(converter, param, dtype)

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        for tensor in self._packed.values():
            tensor.check()
            tensor.decode()
        return model

    def get_state_dict_and_metadata(self, model: Any) -> Any:
        """The state to save; brings config.json's list of quantized tensors up to the names it is saved under."""
        from transformers.core_model_loading import revert_weight_conversion

        from octavo.hub.packed import packed_tensors

        modules = packed_tensors(model)
        state = {
            f"{key}.{part}": tensor._buffers[part] for key, tensor in modules.items() for part in tensor.part_names
        }
        owners = {id(state[f"{key}.{part}"]): (t, part) for key, t in modules.items() for part in t.part_names}
        tensors: dict[str, dict[str, Any]] = {}
        for entry, value in revert_weight_conversion(model, state).items():  # pyright: ignore[reportArgumentType]
            tensor, part = owners[id(value)]
            tensors[entry.removesuffix(f".{part}")] = tensor.entry
        self.quantization_config.tensors = tensors
        return model.state_dict(), {}

    def _dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
        raise ModelError(
            "an octavo model is not dequantized in place", "run `octavo export MODEL OUT --to safetensors-bf16`"
        )

    def is_serializable(self) -> Any:
        return True

    @property
    def is_trainable(self) -> Any:
        return False
