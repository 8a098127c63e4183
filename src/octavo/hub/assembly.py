"""Prepares a transformers model for a checkpoint of packed tensors, before any weight is read.

The model arrives on the meta device. Each Parameter that the checkpoint holds quantized is replaced by a
`PackedTensor` whose buffers have the very shapes and dtypes of the file's entries, so that transformers' loader fills
them like any other buffer: nothing dense is ever made. The rules:

- A tensor that transformers only renames replaces the Parameter of that name.
- A tensor that transformers would convert (an expert to be fused with the others, a matrix to be split) keeps its
  checkpoint name; the converted Parameter becomes a `ConvertedTensor` over it. If some sources of one converted
  Parameter are quantized and others are not, all of them are kept under their checkpoint names.
- Of two tied weights the checkpoint holds one (else they are not tied). The other's owner refers to the same
  `PackedTensor`, outside its own state: one copy in memory, one in the file.
- A quantized tensor that this model does not have (a head, for a base model) is left for the loader to report.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from octavo.base.errors import CheckpointError
from octavo.formats.format import Format
from octavo.formats.tensor import QuantizedTensor
from octavo.hub.converted import Branch, ConvertedTensor
from octavo.hub.headers import Header
from octavo.hub.naming import Destination, Naming
from octavo.hub.packed import PackedTensor
from octavo.hub.parts import check_parts


@dataclass(frozen=True)
class Assembly:
    """What was prepared.

    Attributes:
        packed: the packed tensors by their key in the model's namespace.
        kept: entries, as converters see them, that must not be converted.
    """

    packed: dict[str, PackedTensor]
    kept: frozenset[str]


def assemble(
    model: PreTrainedModel, tensors: Mapping[str, Mapping[str, Any]], headers: Mapping[str, Header], dtype: torch.dtype
) -> Assembly:
    """Replace the Parameters of `model` that the checkpoint holds quantized.

    Args:
        model: on the meta device, unloaded.
        tensors: config.json's entry for each quantized tensor.
        headers: shape and dtype of every entry of the files.
        dtype: dtype to compute in.

    Raises:
        CheckpointError: entries that are missing, of the wrong size or dtype, or that fit nothing in the model.
        FormatError: an unknown format string.
    """
    naming = Naming(model)
    ties = _ties(model)
    parts = _parts_by_tensor(tensors, headers)
    owned = {f"{name}.{part}" for name, found in parts.items() for part in found}
    destinations = naming.destinations([*tensors, *(name for name in headers if name not in owned)])
    present = {d.key for d in destinations.values() if d.converter is None}
    quantized = {name: _quantized(name, tensors[name], parts[name]) for name in tensors}

    packed: dict[str, PackedTensor] = {}

    def make(name: str) -> PackedTensor:
        tensor = PackedTensor(name, quantized[name], dtype, tensors[name])
        packed[destinations[name].key] = tensor
        return tensor

    for name in tensors:
        destination = destinations[name]
        if destination.converter is None and destination.key in naming:
            _check_shape(name, quantized[name], naming.shape(destination.key))
            _replace(model, destination.key, make(name))
    kept = _keep_sources(model, naming, destinations, set(tensors), headers, make)
    _share_tied(model, ties, packed, present)
    return Assembly(packed, frozenset(kept) | {f"{k}.{p}" for k in kept for p in _part_names(packed.values())})


def _part_names(packed: Any) -> set[str]:
    return {part for tensor in packed for part in tensor.part_names}


def _parts_by_tensor(tensors: Mapping[str, Any], headers: Mapping[str, Header]) -> dict[str, dict[str, Header]]:
    parts: dict[str, dict[str, Header]] = {name: {} for name in tensors}
    for entry, header in headers.items():
        name, _, part = entry.rpartition(".")
        if name in parts:
            parts[name][part] = header
    return parts


def _quantized(name: str, entry: Mapping[str, Any], parts: Mapping[str, Header]) -> QuantizedTensor:
    fmt = Format.parse(entry["format"])
    shape = tuple(int(side) for side in entry["shape"])
    check_parts(name, fmt, shape, parts)
    return QuantizedTensor(fmt, shape, {part: header.empty() for part, header in sorted(parts.items())})


def _check_shape(name: str, quantized: QuantizedTensor, shape: torch.Size) -> None:
    if tuple(shape) != quantized.shape:
        raise CheckpointError(
            f"tensor {name} is {list(quantized.shape)} in the checkpoint and {list(shape)} in the model",
            "config.json does not belong to these weights",
        )


def _owner(model: nn.Module, key: str) -> tuple[nn.Module, str]:
    path, _, attribute = key.rpartition(".")
    return (model.get_submodule(path) if path else model), attribute


def _replace(model: nn.Module, key: str, packed: PackedTensor) -> None:
    owner, attribute = _owner(model, key)
    delattr(owner, attribute)
    owner.add_module(attribute, packed)


def _keep_sources(
    model: PreTrainedModel,
    naming: Naming,
    destinations: Mapping[str, Destination],
    tensors: set[str],
    headers: Mapping[str, Header],
    make: Any,
) -> set[str]:
    """Keep under their own names the sources of every conversion that has a quantized one; their plain names."""
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, destination in destinations.items():
        if destination.converter is not None and all(target in naming for target in destination.targets):
            groups[destination.targets].append(name)
    kept: set[str] = set()
    for targets, names in groups.items():
        if tensors.isdisjoint(names):
            continue
        converter = destinations[names[0]].converter
        sources: dict[str, list[tuple[nn.Module, str]]] = {pattern: [] for pattern in converter.source_patterns}
        for name in names:
            destination = destinations[name]
            owner, attribute = _grow(model, destination.key, name)
            if name in tensors:
                owner.add_module(attribute, make(name))
            else:
                empty = torch.empty(headers[name].shape, dtype=model.dtype, device="meta")
                owner.register_parameter(attribute, nn.Parameter(empty, requires_grad=False))
            assert destination.pattern is not None
            sources[destination.pattern].append((owner, attribute))
            kept.add(destination.plain)
        for position, target in enumerate(targets):
            shape = naming.shape(target)
            owner, attribute = _owner(model, target)
            delattr(owner, attribute)
            # Not a Module: its state is its sources'.
            setattr(owner, attribute, ConvertedTensor(shape, sources, converter, position, model.config))
    return kept


def _grow(model: nn.Module, key: str, name: str) -> tuple[nn.Module, str]:
    """The owner of `key` and the attribute's name, with empty nodes for the path's parts the model lacks."""
    *path, attribute = key.split(".")
    owner: nn.Module = model
    for part in path:
        child = owner._modules.get(part)
        if child is None:
            if hasattr(owner, part):
                raise CheckpointError(f"tensor {name} has no place in this model", "update octavo and transformers")
            child = Branch()
            owner.add_module(part, child)
        owner = child
    if hasattr(owner, attribute):
        raise CheckpointError(f"tensor {name} has no place in this model", "update octavo and transformers")
    return owner, attribute


def _ties(model: PreTrainedModel) -> list[tuple[str, PreTrainedModel, dict[str, str]]]:
    """The tied pairs (target: source) of each model within the model; to be asked before any weight is replaced."""
    submodels = [(name, m) for name, m in model.named_modules() if isinstance(m, PreTrainedModel)]
    return [
        (f"{name}." if name else "", submodel, submodel.get_expanded_tied_weights_keys(all_submodels=False))
        for name, submodel in submodels
    ]


def _share_tied(
    model: PreTrainedModel,
    tied: list[tuple[str, PreTrainedModel, dict[str, str]]],
    packed: Mapping[str, PackedTensor],
    present: set[str],
) -> None:
    """Let each weight tied to a packed one refer to it, and take the pair off the lists that transformers ties by."""
    for start, submodel, ties in tied:
        left = {}
        for target, source in ties.items():
            pair = start + target, start + source
            if not any(key in packed for key in pair):
                left[target] = source
            elif not all(key in present for key in pair):
                here, other = pair if pair[0] in packed else pair[::-1]
                _refer(model, other, packed[here])
        if left != ties:
            submodel._tied_weights_keys = left  # pyright: ignore[reportAttributeAccessIssue]
            gone = ties.keys() - left.keys()
            for holder, offset in ((submodel, ""), (model, start)):
                known = holder.all_tied_weights_keys
                holder.all_tied_weights_keys = {k: v for k, v in known.items() if k not in {offset + g for g in gone}}


def _refer(model: nn.Module, key: str, packed: PackedTensor) -> None:
    owner, attribute = _owner(model, key)
    if attribute in owner._parameters:
        delattr(owner, attribute)
    # Past nn.Module's __setattr__, which would register it: the state belongs to the other owner.
    object.__setattr__(owner, attribute, packed)
