"""What a model does to the inputs of its linear layers while it runs: transform them, then quantize them.

config.json says it under `quantization_config`, `activations`:

    {"format": "mxfp4", "scale": "floor", "modules": ["*_proj"], "transforms": {"*mlp.down_proj": "hadamard"}}

`modules` are glob patterns of the modules whose input is rounded to `format` under the scale rule; `format` may be
null. `transforms` name what is computed before. Forward pre-hooks do both, for linear layers packed or dense.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from octavo.base.errors import CheckpointError
from octavo.formats.microscaling import Microscaling
from octavo.transforms.activations import SCALE_RULES, ScaleRule, activation_format, fake_quantize
from octavo.transforms.online import Online

BLOCKS = ("*self_attn.?_proj", "*mlp.*_proj")
"""The linear layers of the blocks of a model of the Llama family."""


@dataclass(frozen=True)
class Activations:
    """The entry of config.json.

    Attributes:
        format: name of a microscaling format; None leaves the inputs in full precision.
        scale: rule for the scales.
        modules: patterns of the modules whose input is quantized.
        transforms: what is computed on the inputs of modules that match a pattern.
    """

    format: str | None = None
    scale: ScaleRule = "floor"
    modules: tuple[str, ...] = BLOCKS
    transforms: Mapping[str, Online] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.format is not None:
            activation_format(self.format)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        transforms = {pattern: str(transform) for pattern, transform in self.transforms.items()}
        return {
            "format": self.format,
            "scale": self.scale,
            "modules": list(self.modules),
            "transforms": transforms,
        }

    @classmethod
    def from_json(cls, entry: Any) -> Activations:
        """The inverse of `to_json`; fields that are left out have their defaults.

        Raises:
            CheckpointError: a field or transform that this release does not know.
            FormatError: a format that it does not know.
        """
        remedy = "update octavo, or make the checkpoint again"
        if not isinstance(entry, dict):
            raise CheckpointError("config.json: the entry `activations` is no object", remedy)
        if unknown := sorted(entry.keys() - {"format", "scale", "modules", "transforms"}):
            raise CheckpointError(f"config.json: this release does not know activations' {unknown[0]!r}", remedy)
        format, scale = entry.get("format"), entry.get("scale", "floor")
        modules, transforms = entry.get("modules", list(BLOCKS)), entry.get("transforms", {})
        if scale not in SCALE_RULES or not isinstance(format, str | None):
            raise CheckpointError(f"config.json: activations in {format!r} with scale rule {scale!r}", remedy)
        if not isinstance(modules, list) or not isinstance(transforms, dict):
            raise CheckpointError("config.json: activations' modules or transforms are of another kind", remedy)
        return cls(
            format,
            scale,
            tuple(map(str, modules)),
            {str(pattern): Online.parse(str(text)) for pattern, text in transforms.items()},
        )


class Inputs:
    """A forward pre-hook: transforms, then rounds, a module's first argument.

    Args:
        transform: None computes nothing.
        element: None rounds nothing.
        scale: the scale rule.
    """

    def __init__(self, transform: Online | None, element: Microscaling | None, scale: ScaleRule) -> None:
        self.transform, self.element = transform, element
        self.scale: ScaleRule = scale
        self.rounding = True

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        values, *rest = args
        assert isinstance(values, Tensor)
        if self.transform is not None:
            values = self.transform(values)
        if self.element is not None and self.rounding:
            values = fake_quantize(values, self.element, self.scale)
        return (values, *rest)


def serve(model: nn.Module, activations: Activations) -> None:
    """Have a model's linear layers treat their inputs so, from now on.

    Raises:
        CheckpointError: a pattern matches no module of the model.
    """
    names = {name: module for name, module in model.named_modules() if hasattr(module, "weight")}
    patterns = (*activations.transforms, *(activations.modules if activations.format else ()))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise CheckpointError(
                f"config.json: the activations' pattern {pattern!r} matches no module of the model",
                "config.json does not belong to these weights",
            )
    for name, module in names.items():
        found = [t for pattern, t in activations.transforms.items() if fnmatchcase(name, pattern)]
        rounded = activations.format and any(fnmatchcase(name, pattern) for pattern in activations.modules)
        element = activation_format(activations.format) if activations.format and rounded else None
        if found or element is not None:
            module.register_forward_pre_hook(Inputs(found[0] if found else None, element, activations.scale))


@contextmanager
def unrounded(model: nn.Module) -> Iterator[None]:
    """Within, the model transforms its inputs and does not round them: the original in other coordinates."""
    hooks = [
        hook
        for module in model.modules()
        for hook in module._forward_pre_hooks.values()
        if isinstance(hook, Inputs) and hook.rounding
    ]
    for hook in hooks:
        hook.rounding = False
    try:
        yield
    finally:
        for hook in hooks:
            hook.rounding = True
