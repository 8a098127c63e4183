"""The option of commands that keep a model's weights in memory."""

from __future__ import annotations

from typing import Annotated

import typer

from octavo.base.keeping import Keeping

KeepingOption = Annotated[
    Keeping,
    typer.Option(
        "--keep",
        help="resident: weights in memory as products read them. stored: as the file has them; entropy-coded ones are "
        "decoded anew at every step, in no more memory than the file, and slowly.",
    ),
]
