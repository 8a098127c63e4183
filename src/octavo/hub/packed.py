"""A quantized weight inside a model: the stored parts as buffers, dequantized for the length of one call.

A `PackedTensor` takes the place of a Parameter under the Parameter's own name, so that its buffers appear in the state
dict exactly as they are in the file: `….q_proj.weight.codes`, `….q_proj.weight.scales`. Nothing dense is kept.

An entropy-coded tensor cannot be read in place, nor can codes of a number of levels that is no power of two without
many divisions. Such a tensor is decoded once, after loading, into its resident form (octavo.formats.resident), whose
own parts are buffers that are not saved; the stored parts that they replace stay as the saved buffers, on the CPU
wherever the model goes, so that `save_pretrained` writes back the very bytes it read. That costs their memory on top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from octavo.base.errors import CheckpointError
from octavo.formats.product import FEW, exact, fused
from octavo.formats.resident import resident
from octavo.formats.rows import select_rows, slabs, slice_rows
from octavo.formats.tensor import QuantizedTensor
from octavo.hub.tensor_like import TensorLike
from octavo.kernels.backends import products_on_gpu

if TYPE_CHECKING:
    from octavo.formats.format import Format
    from octavo.kernels.product import Product

RESIDENT = "resident_"


class PackedTensor(TensorLike, nn.Module):
    """The parts of one quantized tensor, standing in for the Parameter they were made from.

    Args:
        name: the tensor's name in the checkpoint, for messages.
        quantized: format, shape and parts; the parts may be on the meta device until they are loaded.
        dtype: dtype of the dense weight that calls see; follows the model's `to(dtype)`, the stored parts never do.
        entry: config.json's entry for the tensor, saved again as it is.
    """

    def __init__(self, name: str, quantized: QuantizedTensor, dtype: torch.dtype, entry: Mapping[str, Any]) -> None:
        nn.Module.__init__(self)
        self.checkpoint_name = name
        self.format: Format = quantized.format
        self.shape = torch.Size(quantized.shape)
        self.dtype = dtype
        self.entry = dict(entry)
        self.part_names = tuple(quantized.parts)
        for part, value in quantized.parts.items():
            self.register_buffer(part, value)
        self._decoded: Format | None = None
        self._resident_parts: dict[str, str] = {}
        self._fused: Product | Literal["none", "unknown"] = "unknown"
        # From here on, other attributes of a tensor are those of the dense weight.
        self._complete = True

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        # The coded stream may have stayed behind.
        return next(reversed(self._buffers.values())).device  # pyright: ignore[reportOptionalMemberAccess]

    def stored(self) -> QuantizedTensor:
        """The tensor as it is in the file."""
        return QuantizedTensor(self.format, tuple(self.shape), self._parts(self.part_names))

    def resident(self) -> QuantizedTensor:
        """The tensor as it is read, decoded at first if it is not read as it is stored."""
        if self._decoded is None:
            self._decode()
        assert self._decoded is not None
        parts = {part: self._buffer(name) for part, name in self._resident_parts.items()}
        return QuantizedTensor(self._decoded, tuple(self.shape), parts)

    def dense(self) -> Tensor:
        return self.resident().dequantize().reshape(self.shape).to(self.dtype)

    def rows(self, index: Tensor) -> Tensor:
        each = self.numel() // self.shape[-1] // self.shape[0]
        flat = (index[:, None] * each + torch.arange(each, device=index.device)).reshape(-1)
        chosen = select_rows(self.resident(), flat)
        if chosen is None:
            return self.dense()[index]
        return chosen.reshape(len(index), *self.shape[1:]).to(self.dtype)

    def product(self, inputs: Tensor) -> Tensor | None:
        columns = self.shape[-1]
        fits = len(self.shape) == 2 and inputs.shape[-1] == columns and inputs.numel() > 0
        there = inputs.device == self.device and (inputs.device.type == "cpu" or products_on_gpu(inputs))
        if not fits or not there or inputs.dtype != self.dtype:
            return None
        many = inputs.device.type != "cpu" and inputs.dtype == torch.bfloat16
        if inputs.numel() > FEW * columns and not many:
            return None
        if (inputs.requires_grad and torch.is_grad_enabled()) or torch.compiler.is_compiling():
            return None
        if self._fused == "unknown":
            self._fused = fused(self.resident()) or "none"
        if isinstance(self._fused, str):
            return None
        return self._fused(exact(inputs.reshape(-1, columns))).view(*inputs.shape[:-1], self.shape[0])

    def take(self, start: int, stop: int) -> Tensor:
        taken = self._take(start, stop)
        return self.dense()[start:stop] if taken is None else taken

    def slabs(self, height: int) -> Iterator[Tensor]:
        each = self.numel() // self.shape[-1] // self.shape[0]
        for slab in slabs(self.resident(), height * each):
            yield slab.reshape(-1, *self.shape[1:]).to(self.dtype)

    def _take(self, start: int, stop: int) -> Tensor | None:
        """Entries start to stop of the first axis; None where only the whole can be dequantized."""
        each = self.numel() // self.shape[-1] // self.shape[0]
        taken = slice_rows(self.resident(), start * each, stop * each)
        return None if taken is None else taken.reshape(stop - start, *self.shape[1:]).to(self.dtype)

    def check(self) -> None:
        """CheckpointError, naming the tensor, if a part holds what no quantizer writes: a scale that is not finite."""
        for part, value in self._parts(self.part_names).items():
            # e8m0 and other narrow floats have no isfinite of their own.
            if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):
                raise CheckpointError(
                    f"tensor {self.checkpoint_name}: {part} holds values that are not finite",
                    "the checkpoint is damaged; copy or compress it again",
                )

    def decode(self) -> None:
        """Bring the tensor to its resident form now rather than at its first use."""
        if self._decoded is None:
            self._decode()

    def _decode(self) -> None:
        device, stored = self.device, self.stored()
        try:
            decoded = resident(stored)
        except CheckpointError as error:
            raise CheckpointError(f"tensor {self.checkpoint_name}: {error.problem}", error.remedy) from error
        kept = {part for part, value in decoded.parts.items() if value is stored.parts.get(part)}
        self._resident_parts = {part: part if part in kept else RESIDENT + part for part in decoded.parts}
        for part in decoded.parts.keys() - kept:
            self.register_buffer(RESIDENT + part, decoded.parts[part].to(device), persistent=False)
        for part in self._replaced:
            self._buffers[part] = self._buffer(part).cpu()
        self._fused = "unknown"
        self._decoded = decoded.format

    @property
    def _replaced(self) -> set[str]:
        """The stored parts that a resident form has taken the place of."""
        return set(self.part_names) - set(self._resident_parts.values()) if self._resident_parts else set()

    def _buffer(self, name: str) -> Tensor:
        return self._buffers[name]  # pyright: ignore[reportReturnType]

    def _parts(self, names: tuple[str, ...]) -> dict[str, Tensor]:
        return {name: self._buffer(name) for name in names}

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        for name in set(self._resident_parts.values()) - set(self.part_names):
            del self._buffers[name]
        self._decoded, self._resident_parts = None, {}
        self._fused = "unknown"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PackedTensor:
        # A model's to(dtype) names the dtype to compute in. The parts move between devices and keep their bits.
        self._fused = "unknown"
        probe = fn(torch.empty(0, dtype=self.dtype, device=self.device))
        if probe.is_floating_point():
            self.dtype = probe.dtype
        for name, value in self._buffers.items():
            if value is not None and name not in self._replaced:
                moved = value.to(probe.device) if probe.device.type != "meta" and not value.is_meta else fn(value)
                self._buffers[name] = moved if moved.dtype == value.dtype else value.to(moved.device)
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or "_complete" not in self.__dict__ or not hasattr(Tensor, name):
                raise
        return getattr(self.dense(), name)

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, format={str(self.format)!r}, dtype={self.dtype}"


def packed_tensors(model: nn.Module) -> dict[str, PackedTensor]:
    """The packed tensors of a loaded model by their key in its state dict."""
    return {key: module for key, module in model.named_modules() if isinstance(module, PackedTensor)}
