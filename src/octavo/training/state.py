"""Everything that a run goes on from, as named tensors and numbers: of the model, the optimizer and the hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from octavo.base.errors import CheckpointError

MODEL, OPTIMIZER, HOOK = "model", "optimizer", "hook"

Hook = Callable[[int, nn.Module, Optimizer], None]
"""Called before each step with its number, the model and the optimizer."""


@runtime_checkable
class Stateful(Protocol):
    """A hook that remembers something: tensors and numbers by name."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> object: ...


@dataclass(frozen=True, eq=False)
class State:
    """What is being trained.

    Attributes:
        model: with its parameters and persistent buffers.
        optimizer: of its parameters.
        hooks: of which those are kept that have a state.
    """

    model: nn.Module
    optimizer: Optimizer
    hooks: Sequence[Hook]

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, perhaps sharded ones."""
        found = {f"{MODEL}/{name}": tensor for name, tensor in self.model.state_dict().items()}
        return found | {name: value for name, value in self._others() if isinstance(value, Tensor)}

    def numbers(self) -> dict[str, float]:
        """All that is no tensor, by name."""
        return {name: value for name, value in self._others() if not isinstance(value, Tensor)}

    def load(self, names: Sequence[str], read: Callable[[str], Tensor], numbers: Mapping[str, Any]) -> None:
        """Take over what `tensors` and `numbers` gave, one tensor at a time.

        Raises:
            CheckpointError: it belongs to another model, optimizer or other hooks.
        """
        for number, hook in enumerate(self.hooks):
            state = _part(f"{HOOK}/{number}", names, read, numbers)
            if isinstance(hook, Stateful):
                hook.load_state_dict(state)
            elif state:
                raise CheckpointError(f"hook {number} had a state and has none now", "give the same hooks as before")
        self._load_model(names, read)
        self._load_optimizer(names, read, numbers)

    def _others(self) -> Iterator[tuple[str, Any]]:
        named: dict[Tensor, str] = {parameter: name for name, parameter in self.model.named_parameters()}
        for parameter, state in self.optimizer.state.items():
            yield from ((f"{OPTIMIZER}/{named[parameter]}/{key}", value) for key, value in state.items())
        for number, hook in enumerate(self.hooks):
            if isinstance(hook, Stateful):
                yield from ((f"{HOOK}/{number}/{key}", value) for key, value in hook.state_dict().items())

    def _load_model(self, names: Sequence[str], read: Callable[[str], Tensor]) -> None:
        own = self.model.state_dict()
        stored = {name.removeprefix(f"{MODEL}/") for name in names if name.startswith(f"{MODEL}/")}
        if odd := sorted(stored ^ own.keys()):
            where = "the checkpoint" if odd[0] in stored else "the model"
            raise CheckpointError(f"only {where} has the tensor {odd[0]}", "build the same model as before")
        for name, tensor in own.items():
            found = read(f"{MODEL}/{name}")
            if found.shape != tensor.shape:
                raise CheckpointError(
                    f"tensor {name} is {list(found.shape)} in the checkpoint and {list(tensor.shape)} in the model",
                    "build the same model, with the same vocabulary, as before",
                )
            with torch.no_grad():
                tensor.copy_(_like(found, tensor))

    def _load_optimizer(self, names: Sequence[str], read: Callable[[str], Tensor], numbers: Mapping[str, Any]) -> None:
        named = {parameter: name for name, parameter in self.model.named_parameters()}
        described = self.optimizer.state_dict()
        own = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        keys = [key for group in described["param_groups"] for key in group["params"]]
        for key, parameter in zip(keys, own, strict=True):
            state = _part(f"{OPTIMIZER}/{named[parameter]}", names, read, numbers)
            described["state"][key] = {
                entry: _like(value, parameter)
                if isinstance(value, Tensor) and value.shape == parameter.shape
                else value
                for entry, value in state.items()
            }
        self.optimizer.load_state_dict(described)


def whole(tensor: Tensor) -> Tensor:
    """A tensor on the CPU, its shards put together; all processes take part."""
    return gathered(tensor).detach().cpu().contiguous()


def gathered(tensor: Tensor) -> Tensor:
    """A tensor with its shards put together; all processes take part."""
    # Asked by name: sharded tensors take a second to import, and most runs have none.
    gather: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def _like(whole: Tensor, other: Tensor) -> Tensor:
    """A whole tensor that every process has, placed and sharded as another is."""
    if not hasattr(other, "full_tensor"):
        return whole.to(other.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(other, DTensor)
    return distribute_tensor(whole.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def _part(
    start: str, names: Sequence[str], read: Callable[[str], Tensor], numbers: Mapping[str, Any]
) -> dict[str, Any]:
    """What lies under a name."""
    found: dict[str, Any] = {}
    for name in names:
        if name.startswith(f"{start}/"):
            found[name.removeprefix(f"{start}/")] = read(name)
    for name, value in numbers.items():
        if name.startswith(f"{start}/"):
            found[name.removeprefix(f"{start}/")] = value
    return found
