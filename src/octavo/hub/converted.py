"""A weight that transformers assembles from several tensors of the checkpoint, assembled again at every use.

Mixture-of-experts checkpoints store each expert's matrices by themselves (`experts.7.gate_proj.weight`); transformers
stacks them into one three-dimensional Parameter while it loads. Stacking packed tensors is impossible in general (each
may have another format), and stacking dense ones would undo the compression. So every source keeps its checkpoint name
and its packed form, and the assembled weight is a `ConvertedTensor`, which dequantizes the sources and runs
transformers' own conversion when it is used. Where the first step merely stacks one tensor an expert, asking for expert
i dequantizes that expert alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from octavo.hub.tensor_like import TensorLike


class Branch(nn.Module):
    """A node of a checkpoint's name tree that the model itself does not have; holds packed and dense sources."""


class ConvertedTensor(TensorLike):
    """A weight made by a transformers conversion from sources that stay as they are in the checkpoint.

    Args:
        shape: shape of the assembled weight.
        sources: by source pattern of the converter, the (module, attribute) of each source, in checkpoint order.
        converter: transformers' WeightConverter.
        target: which of the converter's targets this is, as its index.
        config: the model's configuration, which some conversions read.
    """

    def __init__(
        self,
        shape: torch.Size,
        sources: dict[str, list[tuple[nn.Module, str]]],
        converter: Any,
        target: int,
        config: Any,
    ) -> None:
        self.shape = shape
        self._sources = sources
        self._converter = converter
        self._target = target
        self._config = config
        self._stacks = _stacks_first_axis(converter.operations) and all(
            len(found) == shape[0] for found in sources.values()
        )

    @property
    def _first(self) -> Any:
        module, attribute = next(iter(self._sources.values()))[0]
        return getattr(module, attribute)

    @property
    def dtype(self) -> torch.dtype:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._first.dtype

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._first.device

    def dense(self) -> Tensor:
        return self._convert(None)

    def rows(self, index: Tensor) -> Tensor:
        return self._convert(index.tolist()) if self._stacks else self.dense()[index]

    def _convert(self, which: list[int] | None) -> Tensor:
        tensors = {}
        for pattern, found in self._sources.items():
            chosen = found if which is None else [found[i] for i in which]
            weights = [getattr(module, attribute) for module, attribute in chosen]
            tensors[pattern] = [w.dense() if isinstance(w, TensorLike) else w.detach() for w in weights]
        patterns = self._converter.source_patterns, self._converter.target_patterns
        for operation in self._converter.operations:
            tensors = operation.convert(
                tensors,
                source_patterns=patterns[0],
                target_patterns=patterns[1],
                full_layer_name=patterns[1][self._target],
                model=None,
                config=self._config,
                missing_keys=None,
            )
        result = tensors[patterns[1][self._target]] if len(tensors) > 1 else next(iter(tensors.values()))
        return result[0] if isinstance(result, list) else result

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(Tensor, name):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self.dense(), name)


def _stacks_first_axis(operations: list[Any]) -> bool:
    from transformers.core_model_loading import Concatenate, MergeModulelist

    first, *rest = operations
    stacks = type(first) is MergeModulelist and first.dim == 0
    return stacks and all(type(operation) is Concatenate and operation.dim > 0 for operation in rest)
