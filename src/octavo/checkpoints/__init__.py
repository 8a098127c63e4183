"""Checkpoints: read lazily by tensor name, written atomically and resumably. No pickle is ever loaded."""

from octavo.checkpoints.checkpoint import Checkpoint, Entry
from octavo.checkpoints.opening import open_checkpoint
from octavo.checkpoints.writer import CheckpointWriter

__all__ = ["Checkpoint", "CheckpointWriter", "Entry", "open_checkpoint"]
