"""A language model whose matrices stay on disk and are read, one at a time, when they are used.

The model is built without weights. Vectors and buffers are few and become real; in the place of every matrix comes a
`StreamedWeight`, which knows which tensors of the checkpoint it is made of. Those are transformers' rules, applied by
transformers' own functions: to names and to tensors without memory when the model is built, to the values on each use.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from octavo.calibrate.streamed import Shelf, Stored, StreamedWeight, StreamingError
from octavo.checkpoints import Checkpoint, open_checkpoint
from octavo.checkpoints.opening import resolve_source
from octavo.models.loading import load_tokenizer, unloaded_model
from octavo.models.quiet import quiet


def load_streamed_model(source: str | Path) -> tuple[Any, Any]:
    """A model that predicts tokens, in float32 on the CPU and not to be trained, and its tokenizer (None: it has none).

    Memory: the model's vectors, and as much as the largest matrix takes in float32, one and a half times while it is
    read. The checkpoint must stay where it is while the model is used.

    Args:
        source: a dense Hugging Face directory, a GGUF file, an embedded or a hub name.

    Raises:
        CheckpointError: there is no such model, or it is damaged.
        ModelError: it predicts no tokens, or of an architecture that transformers does not know.
        StreamingError: the checkpoint's tensors do not make the model's; `load_language_model` may know what is wrong.
    """
    checkpoint = open_checkpoint(source)
    path = resolve_source(source)
    with quiet():
        model = streamed_model(checkpoint)
        return model, load_tokenizer(path if path.is_dir() else checkpoint.sidecars[0].parent)


def streamed_model(checkpoint: Checkpoint) -> Any:
    """See `load_streamed_model`."""
    hook = register_module_parameter_registration_hook(_without_memory)  # pyright: ignore[reportArgumentType]
    try:
        model = unloaded_model(checkpoint)
    finally:
        hook.remove()
    parts = _parts(model, checkpoint)
    known = model.state_dict(keep_vars=True)
    missing = {name for name in known if name not in parts}
    for name in missing.intersection(name for name, _ in model.named_parameters()):
        # A tied name would go on pointing at the tensor that is about to be replaced.
        _assign(model, name, nn.Parameter(torch.empty_like(known[name], device="meta"), requires_grad=False))
    matrices = {name: part for name, part in parts.items() if _is_matrix(known[name])}
    shelf = Shelf(max((part.largest for part in matrices.values()), default=0))
    for name, part in parts.items():
        if name in matrices:
            stored = Stored(name, tuple(known[name].shape), part.read)
            _assign(model, name, nn.Parameter(StreamedWeight(stored, shelf), requires_grad=False))
        else:
            values = part.read(None).to(known[name].dtype)
            is_parameter = isinstance(known[name], nn.Parameter)
            _assign(model, name, nn.Parameter(values, requires_grad=False) if is_parameter else values)
    model.tie_weights(missing_keys=missing, recompute_mapping=False)
    absent = sorted(missing - _ignored(model, missing))
    if absent:
        raise StreamingError(f"{checkpoint.source} has no tensor for the model's {absent[0]}")
    return model.eval()


@dataclass(frozen=True, eq=False)
class _Part:
    """Where one of the model's tensors comes from.

    Attributes:
        checkpoint: the checkpoint.
        model: the model, whose shapes some conversions ask for.
        target: the tensor's name.
        shape: its shape.
        sources: names in the checkpoint by the converter's pattern; of the experts of a mixture in their order.
        converter: makes the tensor from these; None where it is stored as it is used.
        separable: whether the i-th sources make the i-th matrix.
    """

    checkpoint: Checkpoint
    model: Any
    target: str
    shape: tuple[int, ...]
    sources: Mapping[str, tuple[str, ...]]
    converter: Any
    separable: bool

    @property
    def largest(self) -> int:
        """Bytes of what is read at once, in float32."""
        return 4 * prod(self.shape[1:] if self.separable else self.shape)

    def read(self, slice: int | None) -> Tensor:
        """The tensor as stored, or one matrix of it, reading no more than it needs."""
        if self.converter is None:
            ((name,),) = self.sources.values()
            values = self.checkpoint.read(name)
            # A copy, that the other experts' memory may go.
            return values if slice is None else values[slice].clone()
        if slice is None or not self.separable:
            values = self._made(self.sources)
            return values if slice is None else values[slice].clone()
        return self._made({pattern: names[slice : slice + 1] for pattern, names in self.sources.items()})[0]

    def _made(self, sources: Mapping[str, Iterable[str]]) -> Tensor:
        read = {pattern: [self.checkpoint.read(name) for name in names] for pattern, names in sources.items()}
        return _converted(self.converter, self.model, self.target, read)[self.target]


def _parts(model: Any, checkpoint: Checkpoint) -> dict[str, _Part]:
    """Where each of the model's tensors comes from, as transformers' loader finds it."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    known, prefix = model.state_dict(), model.base_model_prefix
    parts: dict[str, _Part] = {}
    converted: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in sorted(checkpoint.names, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, prefix, known)
        if target not in known and name in known:
            target, pattern = rename_source_key(name, [], [], prefix, known)
        if target not in known:
            continue
        if pattern is None:
            shape = tuple(known[target].shape)
            if checkpoint.entry(name).shape != shape:
                raise StreamingError(f"{name} has not the shape {shape} that the model expects")
            parts[target] = _Part(checkpoint, model, target, shape, {name: (name,)}, None, separable=False)
        else:
            converted[target][pattern].append(name)
    # What was of use in loading is what is reversed when names are those of the checkpoint again.
    model._weight_conversions = [rule for rule in rules if rule.was_used()]
    for first, lists in converted.items():
        sources = {pattern: tuple(names) for pattern, names in lists.items()}
        converter = by_pattern[next(iter(sources))]
        try:
            made = _converted(converter, model, first, _shapes(checkpoint, sources))
        except (RuntimeError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
            raise StreamingError(f"transformers cannot make {first} of shapes alone ({error})") from error
        for target, values in made.items():
            shape = tuple(values.shape)
            if target not in known or known[target].shape != shape:
                raise StreamingError(f"the checkpoint's tensors do not make the model's {target}")
            separable = _is_separable(converter, model, target, shape, sources, checkpoint)
            parts[target] = _Part(checkpoint, model, target, shape, sources, converter, separable)
    return parts


def _is_separable(
    converter: Any,
    model: Any,
    target: str,
    shape: tuple[int, ...],
    sources: Mapping[str, tuple[str, ...]],
    checkpoint: Checkpoint,
) -> bool:
    """Whether a conversion stacks matrices first and then never looks along the stack."""
    from transformers.core_model_loading import Concatenate, MergeModulelist, Transpose

    first, *rest = converter.operations
    if len(shape) != 3 or not isinstance(first, MergeModulelist) or first.dim != 0:
        return False
    if not all(
        (isinstance(step, Concatenate) and step.dim in (1, 2))
        or (isinstance(step, Transpose) and not step.check_dims and {step.dim0, step.dim1} == {1, 2})
        for step in rest
    ):
        return False
    if any(len(names) != shape[0] for names in sources.values()):
        return False
    one = _shapes(checkpoint, {pattern: names[:1] for pattern, names in sources.items()})
    return tuple(_converted(converter, model, target, one)[target].shape) == (1, *shape[1:])


def _shapes(checkpoint: Checkpoint, sources: Mapping[str, Iterable[str]]) -> dict[str, list[Tensor]]:
    """Tensors without memory in place of the checkpoint's."""
    return {
        pattern: [torch.empty(checkpoint.entry(name).shape, device="meta") for name in names]
        for pattern, names in sources.items()
    }


def _converted(converter: Any, model: Any, target: str, tensors: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
    """What a conversion makes of the tensors, by full name."""
    copied = deepcopy(converter)
    for pattern, listed in tensors.items():
        copied.collected_tensors[pattern] = list(listed)
    made = copied.convert(target, model=model, config=model.config)
    return {name: values[0] if isinstance(values, list) else values for name, values in made.items()}


def _without_memory(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
    if parameter is None or not _is_matrix(parameter):
        return parameter
    return nn.Parameter(parameter.detach().to("meta"), requires_grad=False)


def _is_matrix(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and tensor.ndim >= 2 and tensor.is_floating_point()


def _assign(model: nn.Module, name: str, value: Tensor) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, value)


def _ignored(model: Any, missing: Iterable[str]) -> set[str]:
    """Missing tensors that transformers does not miss: they are computed when the model is built."""
    patterns = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_missing or ()]
    found = {name for name in missing if any(pattern.search(name) for pattern in patterns)}
    return {name for name in found if model.state_dict(keep_vars=True)[name].device.type != "meta"}
