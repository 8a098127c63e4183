"""Transforms that a model computes as it runs, named by one line of text: `hadamard`, or `hadamard b32` in blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from octavo.base.errors import CheckpointError
from octavo.transforms.hadamard import hadamard_transform

_TEXT = re.compile(r"hadamard(?: b([1-9]\d{0,8}))?")


@dataclass(frozen=True)
class Online:
    """A Hadamard transform of each row, in blocks if `block` is given."""

    block: int | None = None

    def __call__(self, values: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows n"]:
        return hadamard_transform(values, self.block)

    def __str__(self) -> str:
        return "hadamard" if self.block is None else f"hadamard b{self.block}"

    @classmethod
    def parse(cls, text: str) -> Online:
        """The transform that a line names.

        Raises:
            CheckpointError: there is none.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise CheckpointError(f"{text!r} is no transform that this release computes", "update octavo")
        return cls(int(match[1]) if match[1] else None)
