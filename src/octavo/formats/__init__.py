"""What a number is: formats by name, quantized tensors, importance."""

from __future__ import annotations

from octavo.formats.format import Format
from octavo.formats.importance import Importance
from octavo.formats.scaling import Scaling
from octavo.formats.spec import parse
from octavo.formats.tensor import QuantizedTensor

__all__ = ["Format", "Importance", "QuantizedTensor", "Scaling", "parse"]
