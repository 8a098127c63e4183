"""Training with the numbers that a network will be stored in, and exporting exactly these."""

from octavo.training.precision.distillation import Distillation
from octavo.training.precision.exporting import export_quantized
from octavo.training.precision.flips import FlipRate
from octavo.training.precision.starting import StartQuantizing

__all__ = ["Distillation", "FlipRate", "StartQuantizing", "export_quantized"]
