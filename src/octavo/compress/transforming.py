"""Transforming a checkpoint before it is compressed: maps folded into the weights, tensor by tensor.

    octavo transform MODEL SMOOTH --kind hadamard --activations mxfp4
    octavo compress SMOOTH OUT --format mxfp4

What is written is a dense Hugging Face directory whose config.json says, under `quantization_config`, what linear
layers do to their inputs (`octavo.transforms.serving`): its `tensors` are none, so that `compress` takes it for dense.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from math import nan
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from octavo.base.errors import CheckpointError, ModelError, OctavoError, OutputError
from octavo.base.progress import SILENT, Progress
from octavo.calibrate.text import default_text, read_text, token_sequences
from octavo.checkpoints import Checkpoint, CheckpointWriter, open_checkpoint
from octavo.compress.kept_maps import forget_maps, read_maps, write_maps
from octavo.compress.remembering import partial_path
from octavo.models.evaluate import evaluate
from octavo.models.loading import load_language_model, load_tokenizer
from octavo.transforms.activations import ScaleRule, activation_format
from octavo.transforms.affine import checked
from octavo.transforms.decoder import check_names, decoder_of
from octavo.transforms.fold import Maps, fold_tensor, folded_config
from octavo.transforms.learning import Learning, learn, starting_maps
from octavo.transforms.serving import Activations, unrounded
from octavo.transforms.student import Rounding

Kind = Literal["none", "hadamard", "rotation", "latmix"]
LEARNED = ("rotation", "latmix")


@dataclass(frozen=True)
class Transform:
    """What to do to a model.

    Attributes:
        kind: "hadamard" takes fixed transforms, "rotation" learns T1 and T2 as rotations, "latmix" as affine maps;
            "none" changes no weight and only says how activations are rounded.
        family: of affine maps, "lu" or "qr".
        block: Hadamard transforms in blocks of this size; None takes whole rows.
        online: whether the last layer of each feed-forward has its input transformed as the model runs (T3).
        activations: microscaling format of the inputs of the blocks' linear layers; None leaves them.
        weights: format that the student's weights are rounded to while maps are learned; None leaves them.
        scale: rule for the scales of activations.
        learning: how maps are learned.
        sequences: calibration sequences; 0, without learning, leaves the drift unmeasured.
        length: tokens in each.
        seed: of signs, sequences and steps.
    """

    kind: Kind = "hadamard"
    family: Literal["lu", "qr"] = "lu"
    block: int | None = None
    online: bool = True
    activations: str | None = None
    weights: str | None = "mxfp4"
    scale: ScaleRule = "floor"
    learning: Learning = field(default_factory=Learning)
    sequences: int = 16
    length: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise OctavoError(f"there is no transform {self.kind!r}", f"choose one of {', '.join(get_args(Kind))}")
        for format in (self.activations, self.weights):
            if format is not None:
                activation_format(format)
        if self.block is not None and self.block < 1:
            raise OctavoError(f"blocks of {self.block} make no sense", "give a size from 1, for instance 32")
        if self.kind in LEARNED and (self.sequences < 1 or self.learning.steps < 1):
            raise OctavoError("a learned transform needs sequences and steps", "give both, or take hadamard")

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Transform:
        """The inverse of `dataclasses.asdict`, as plans hold it.

        Raises:
            OctavoError: a field is unknown or makes no sense.
        """
        try:
            return cls(**{**fields, "learning": Learning(**fields.get("learning", {}))})
        except TypeError as error:
            raise OctavoError(f"this is no transform ({error})", "edit the plan that --save-plan wrote") from None


@dataclass(frozen=True)
class TransformReport:
    """What was made.

    Attributes:
        out: the directory.
        drift: KL(original ‖ transformed) without any rounding, nats per token; nan if it was not measured.
        drift_error: its standard error over sequences.
        condition: the largest condition number of the maps.
        losses: KL of each step of learning; empty if nothing was learned, or learned by an interrupted run.
        seconds: time of this run.
    """

    out: Path
    drift: float
    drift_error: float
    condition: float
    losses: tuple[float, ...]
    seconds: float


class _State(Mapping[str, Tensor]):
    """A checkpoint's tensors, read as they are asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._checkpoint.entries:
            raise KeyError(name)
        return self._checkpoint.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._checkpoint.names)

    def __len__(self) -> int:
        return len(self._checkpoint.names)


def transform_checkpoint(
    source: str | Path,
    out: str | Path,
    transform: Transform = Transform(),
    *,
    calibration: str | Path | None = None,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> TransformReport:
    """Write the model in `source`, transformed, to the directory `out`: dense, untied, in the dtypes it has.

    An interrupted call, given again, goes on where it stopped; learned maps are kept beside `out` until it is whole.
    Folding holds the largest tensor a few times, in float64. Learning holds the model in float32 some four times, and
    measuring the drift holds both models.

    Args:
        source: a dense Hugging Face directory, a GGUF file, a hub name or the name of an embedded model.
        out: directory to make; it must not exist.
        transform: what to do.
        calibration: a text file; the default is a text that every Python has.
        device: where maps are learned and the drift is measured.
        progress: told how far it is.

    Raises:
        ModelError: the architecture is of another family, or there is no tokenizer to calibrate with.
        CheckpointError: the source is quantized already.
        OctavoError: learning diverged, or came to a map that weights do not bear.
        OutputError: `out` exists or cannot be written.
    """
    start = time.monotonic()
    checkpoint, out = open_checkpoint(source), Path(out)
    if checkpoint.quantization is not None:
        raise CheckpointError(f"{source} is quantized or transformed already", "start from the original model")
    if out.exists() and not partial_path(out).exists():
        raise OutputError(f"{out} exists already", "remove it or choose another OUT")
    text = default_text() if calibration is None else read_text(Path(calibration))
    request = json.dumps([checkpoint.fingerprint, asdict(transform), text, device])
    maps, losses = _maps(source, checkpoint, out, transform, text, request, device, progress)
    entry = _activations(transform, maps)
    with CheckpointWriter(out, f"{request} {_digest(maps)}", progress=progress) as writer:
        config = _write(checkpoint, writer, maps, progress)
        if entry is not None:
            quantization = {"quant_method": "octavo", "version": 1, "tensors": {}, "activations": entry.to_json()}
            config = {**config, "quantization_config": quantization}
        writer.finish(config, checkpoint.sidecars)
    forget_maps(out)
    drift, error = _drift(source, out, transform, text, device, progress)
    return TransformReport(out, drift, error, _condition(maps), losses, time.monotonic() - start)


def _write(checkpoint: Checkpoint, writer: CheckpointWriter, maps: Maps | None, progress: Progress) -> dict[str, Any]:
    """Write every tensor and return config.json; None for maps copies the model."""
    state = _State(checkpoint)
    if maps is None:
        for name in progress.track(checkpoint.names, "copying", len(checkpoint.names)):
            if not writer.done(name):
                writer.write(name, {"": state[name]})
        return dict(checkpoint.config)
    decoder = decoder_of(checkpoint.config)
    config = folded_config(checkpoint.config, maps, decoder)
    for name in progress.track(checkpoint.names, "folding", len(checkpoint.names)):
        if writer.done(name):
            continue
        dtype = checkpoint.entry(name).dtype
        # The tensor itself comes last: where it is written, all it brings along is.
        for made, tensor in fold_tensor(name, state, maps, decoder).items():
            if not writer.done(made):
                writer.write(made, {"": tensor.to(dtype)})
    return config


def _maps(
    source: str | Path,
    checkpoint: Checkpoint,
    out: Path,
    transform: Transform,
    text: str,
    request: str,
    device: str,
    progress: Progress,
) -> tuple[Maps | None, tuple[float, ...]]:
    """The maps to fold in, float64, checked; None for none. What was learned is kept for a run that goes on."""
    if transform.kind == "none":
        return None, ()
    decoder = decoder_of(checkpoint.config)
    check_names(checkpoint.names, decoder)
    generator = torch.Generator().manual_seed(transform.seed)
    affine = transform.kind == "latmix"
    maps = starting_maps(
        decoder,
        transform.family if affine else "rotation",
        generator,
        transform.block,
        shifted=affine and decoder.attention_bias,
        inner=transform.online,
        method=transform.learning.method,
    )
    losses: tuple[float, ...] = ()
    if transform.kind in LEARNED and not read_maps(out, request, maps):
        model, tokenizer = load_language_model(source)
        sequences = _sequences(tokenizer, source, transform, text)
        rounding = Rounding(
            *(None if f is None else activation_format(f) for f in (transform.weights, transform.activations)),
            scale=transform.scale,
        )
        model = model.to(device).requires_grad_(False)
        learned = learn(model, decoder, maps, sequences, rounding, generator, transform.learning, progress)
        maps, losses = learned.maps.cpu(), learned.losses
        write_maps(out, request, maps)
    found = maps.requires_grad_(False).double().maps()
    for map in (found.stream, *(found.values or ())):
        if map is not None:
            checked(map)
    return found, losses


def _digest(maps: Maps | None) -> str:
    """What tells these maps from others: pieces of a run that learned others must not mix with this one's."""
    digest = hashlib.sha256()
    for map in () if maps is None else (maps.stream, *(maps.values or ())):
        for tensor in () if map is None else (map.matrix, map.shift):
            digest.update(b"" if tensor is None else tensor.numpy().tobytes())
    return digest.hexdigest()


def _condition(maps: Maps | None) -> float:
    if maps is None:
        return 1.0
    return max(map.condition for map in (maps.stream, *(maps.values or ())) if map is not None)


def _activations(transform: Transform, maps: Maps | None) -> Activations | None:
    online = {} if maps is None or maps.inner is None else {"*mlp.down_proj": maps.inner}
    if transform.activations is None and not online:
        return None
    return Activations(transform.activations, transform.scale, transforms=online)


def _sequences(tokenizer: Any, source: str | Path, transform: Transform, text: str) -> Int[Tensor, "sequences length"]:
    if tokenizer is None:
        raise ModelError(f"{source} has no tokenizer to calibrate with", "put tokenizer.json beside config.json")
    generator = torch.Generator().manual_seed(transform.seed)
    return token_sequences(tokenizer, text, transform.length, transform.sequences, generator)


def _drift(
    source: str | Path, out: Path, transform: Transform, text: str, device: str, progress: Progress
) -> tuple[float, float]:
    if not transform.sequences or transform.kind == "none":
        return (nan, nan) if transform.kind != "none" else (0.0, 0.0)
    model, _ = load_language_model(out)
    sequences = _sequences(load_tokenizer(out), source, transform, text)
    with unrounded(model):
        found = evaluate(model, source, sequences, device=device, progress=progress)
    return found.kl, found.kl_error
