"""A Hugging Face directory: config.json, one safetensors file or an index of several, tokenizer files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from octavo.base.errors import CheckpointError
from octavo.checkpoints.checkpoint import Checkpoint
from octavo.checkpoints.fingerprint import fingerprint
from octavo.checkpoints.safetensors import SafetensorsFile, open_safetensors
from octavo.checkpoints.strict_json import read_object

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_SIDECARS = (
    "added_tokens.json",
    "chat_template*",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer*.json",
    "tokenizer*.model*",
    "vocab.json",
    "vocab.txt",
    "*.spm",
    "*.tiktoken",
    "sentencepiece.bpe.model",
    "spiece.model",
    "preprocessor_config.json",
    "processor_config.json",
    "LICENSE*",
    "NOTICE*",
)


def open_directory(path: Path) -> Checkpoint:
    """Open the Hugging Face directory `path`.

    Raises:
        CheckpointError: no config, no safetensors, or anything about the index or a shard is not as it must be.
    """
    config_path = path / "config.json"
    if not config_path.exists():
        raise CheckpointError(f"{path} has no config.json", "give a Hugging Face model directory or a GGUF file")
    config = read_object(config_path)
    owner = _owners(path)
    entries = {name: owner[name].entries[name] for name in sorted(owner)}
    files = sorted({file.path: file for file in owner.values()}.items())

    def read(name: str) -> Tensor:
        return owner[name].read(name)

    return Checkpoint(
        source=path,
        entries=entries,
        config=config,
        _read=read,
        _sidecars=lambda: find_sidecars(path, config),
        _fingerprint=lambda: fingerprint(config, [(p.name, p, file.spans()) for p, file in files]),
    )


def find_sidecars(path: Path, config: Mapping[str, Any]) -> tuple[Path, ...]:
    """Files of `path` that a model made from it needs beside it, sorted; code only if the config refers to it."""
    patterns = (*_SIDECARS, "*.py") if "auto_map" in config else _SIDECARS
    return tuple(sorted({file for pattern in patterns for file in path.glob(pattern) if file.is_file()}))


def _owners(path: Path) -> dict[str, SafetensorsFile]:
    """Which file holds which tensor."""
    if (path / INDEX).exists():
        return _indexed(path, path / INDEX)
    if (path / SINGLE).exists():
        return _single(path / SINGLE)
    found = sorted(path.glob("*.safetensors"))
    indices = sorted(path.glob("*.safetensors.index.json"))
    if len(indices) == 1:
        return _indexed(path, indices[0])
    if len(found) == 1:
        return _single(found[0])
    if found:
        raise CheckpointError(f"{path} has several safetensors files and no {INDEX}", "fetch the index too")
    if pickles := sorted(file.name for pattern in _PICKLES for file in path.glob(pattern)):
        raise CheckpointError(
            f"{path} has no safetensors, only {pickles[0]}, and octavo never loads a pickle, which can run code",
            "convert it where you trust it: AutoModel.from_pretrained(DIR).save_pretrained(NEW)",
        )
    raise CheckpointError(f"{path} has no safetensors file", "fetch the model's weights")


def _single(path: Path) -> dict[str, SafetensorsFile]:
    file = open_safetensors(path)
    return dict.fromkeys(file.entries, file)


def _indexed(path: Path, index: Path) -> dict[str, SafetensorsFile]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map", "fetch the index again")
    for name, shard in weight_map.items():
        # A plain name keeps the reader inside the directory; links are fine, the Hugging Face cache is made of them.
        if not isinstance(shard, str) or not shard.endswith(".safetensors") or {*"/\\\0"} & {*shard}:
            raise CheckpointError(
                f"{index} places tensor {name!r} in {shard!r}, which is no plain name of a safetensors file",
                "do not use this checkpoint unless you know why",
            )
    files = {shard: open_safetensors(path / shard) for shard in sorted(set(weight_map.values()))}
    for name, shard in weight_map.items():
        if name not in files[shard].entries:
            raise CheckpointError(f"{index} places tensor {name!r} in {shard}, which lacks it", "fetch both again")
    for shard, file in files.items():
        for name in file.entries:
            if (other := weight_map.get(name)) != shard:
                problem = "does not list" if other is None else f"places in {other}"
                raise CheckpointError(f"{shard} holds tensor {name!r}, which {index} {problem}", "fetch both again")
    return {name: files[shard] for name, shard in weight_map.items()}
