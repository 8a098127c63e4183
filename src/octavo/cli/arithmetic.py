"""The option of commands that run a model's packed weights."""

from __future__ import annotations

from typing import Annotated

import typer

from octavo.base.arithmetic import Arithmetic

ArithmeticOption = Annotated[
    Arithmetic,
    typer.Option(
        "--arithmetic",
        help="exact: float32. int8: faster; packed weights meet inputs of 8 bits, and prompts are read in bfloat16.",
    ),
]
