"""Runs of a model so small that a test can train it many times."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from octavo.models.decoder_config import DecoderConfig
from octavo.models.transformer import Transformer
from octavo.training import TokenWindows, TrainingConfig

LENGTH = 16
TEXT = b"A sheet folded once is a folio, folded twice a quarto, folded three times an octavo. "


def config(**changes: Any) -> TrainingConfig:
    """Ten steps of two micro-batches; fields by their dotted names with two underscores for a dot."""
    small = {"steps": 10, "schedule.warmup": 2, "optimizer.learning_rate": 3e-3, "optimizer.accumulation": 2}
    small |= {"precision.device": "cpu", "logging.evaluation_batches": 2, "logging.every": 1}
    return TrainingConfig().changed(small | {name.replace("__", "."): value for name, value in changes.items()})


def model(seed: int = 0, **sizes: Any) -> Transformer:
    """Two layers of width 32 over bytes."""
    sizes = {"hidden": 32, "layers": 2, "heads": 2, "context": LENGTH} | sizes
    return Transformer(DecoderConfig.plain(256, **sizes), torch.Generator().manual_seed(seed))


def source(batch: int = 2, seed: int | None = 0) -> TokenWindows:
    """Windows of a sentence that is repeated."""
    return TokenWindows(np.frombuffer(TEXT * 20, np.uint8).astype(np.uint16), LENGTH, batch, seed)
