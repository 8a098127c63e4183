"""One trainer: what is minimized is a function, the data a pure function of the step, and a run resumes exactly."""

from octavo.training.configuration import TrainingConfig
from octavo.training.objective import Batch, Objective, next_token_loss
from octavo.training.result import TrainingResult
from octavo.training.sources import Source, TokenWindows
from octavo.training.trainer import train

__all__ = [
    "Batch",
    "Objective",
    "Source",
    "TokenWindows",
    "TrainingConfig",
    "TrainingResult",
    "next_token_loss",
    "train",
]
