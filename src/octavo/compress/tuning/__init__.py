"""Fine-tuning after rounding: codes stay, and scales, codebooks, steps, norm gains and biases learn."""

from __future__ import annotations

from octavo.compress.tuning.running import Tuner, Tuning, tuner

__all__ = ["Tuner", "Tuning", "tuner"]
