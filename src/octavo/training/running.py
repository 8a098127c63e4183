"""From a config to a trained model on disk: what `octavo train` does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from octavo.base.errors import ModelError, OctavoError
from octavo.base.progress import SILENT, Progress
from octavo.checkpoints import open_checkpoint
from octavo.models.decoder_config import DecoderConfig
from octavo.models.saving import write_huggingface
from octavo.models.transformer import Transformer
from octavo.models.transformer_loading import load_transformer
from octavo.training.configuration import TrainingConfig
from octavo.training.objective import next_token_loss
from octavo.training.processes import Processes, joined
from octavo.training.result import TrainingResult
from octavo.training.seeding import generator_of
from octavo.training.sources import TokenWindows
from octavo.training.state import whole
from octavo.training.tokenized import TokenizedText, tokenize
from octavo.training.trainer import train

MODEL = "model"
"""The folder of the finished model, in the run's."""


@dataclass(frozen=True, eq=False)
class Run:
    """What a run made.

    Attributes:
        result: how training went.
        model: the Hugging Face directory; None for a run that was stopped before its end.
        text: what it was trained on.
        first: whether this process is the one that tells.
    """

    result: TrainingResult
    model: Path | None
    text: TokenizedText
    first: bool


def run(config: TrainingConfig, directory: str | Path, progress: Progress = SILENT) -> Run:
    """Tokenize, train and save; what was done before in the directory is gone on with.

    Raises:
        OctavoError: as `tokenize` and `train`.
    """
    directory = Path(directory).expanduser()
    with joined(config) as processes:
        text = _text(config, directory, progress, processes)
        model, data = _model(config, text.vocabulary.size), config.data
        source = TokenWindows(text.train, data.length, data.batch, config.seed)
        held_out = None
        if len(text.held_out) > data.length:
            held_out = TokenWindows(text.held_out, data.length, data.batch, seed=None)
        result = train(
            model,
            next_token_loss,
            source,
            config,
            directory=directory,
            held_out=held_out,
            identity=text.identity,
            progress=progress if processes.first else SILENT,
        )
        saved = directory / MODEL if result.finished else None
        if saved is not None and not saved.exists():
            _save(model, text, saved, processes)
    return Run(result, saved, text, processes.first)


def decoder_config(config: TrainingConfig, vocabulary: int) -> DecoderConfig:
    """The sizes of the network that a config asks for.

    Raises:
        ModelError: they make no sense, or do not suit the text.
        CheckpointError: there is no such model to start from.
    """
    model = config.model
    if model.start:
        found = DecoderConfig.from_huggingface(open_checkpoint(model.start).config)
        if vocabulary > found.vocabulary or config.data.length > found.context:
            raise ModelError(
                f"{model.start} has {found.vocabulary} tokens and a context of {found.context}, and the text needs "
                f"{vocabulary} and {config.data.length}",
                f"give its own tokenizer as data.tokenizer, and a data.length up to {found.context}",
            )
        return found
    return DecoderConfig.plain(
        vocabulary,
        model.hidden,
        model.layers,
        model.heads,
        shared_heads=model.shared_heads or None,
        inner=model.inner or None,
        context=config.data.length,
        theta=model.theta,
        tied=model.tied,
    )


def _model(config: TrainingConfig, vocabulary: int) -> Transformer:
    """The network as training starts with it."""
    sizes = decoder_config(config, vocabulary)
    if config.model.start:
        return load_transformer(open_checkpoint(config.model.start))
    return Transformer(sizes, generator_of(config.seed, "weights"))


def _text(config: TrainingConfig, directory: Path, progress: Progress, processes: Processes) -> TokenizedText:
    """The tokenized text, which the first process makes while the others wait."""
    cache = Path(config.data.cache).expanduser() if config.data.cache else directory / "data"
    problem: OctavoError | None = None
    if processes.first:
        try:
            tokenize(config.data, cache, progress)
        except OctavoError as error:
            problem = error
    if told := processes.agreed("" if problem is None else str(problem)):
        raise problem or ModelError(told)
    return tokenize(config.data, cache)


def _save(model: Transformer, text: TokenizedText, directory: Path, processes: Processes) -> None:
    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, parameter in model.named_parameters():
            yield name, whole(parameter)

    if processes.first:
        write_huggingface(tensors(), model.config, text.vocabulary.tokenizer, directory, text.vocabulary.end)
    else:
        for _ in tensors():
            pass
