"""What a recipe is given, and what it hands back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from octavo.base.errors import LawError
from octavo.base.progress import SILENT, Progress
from octavo.laws.sweeps import Failure, Job, Sweep, run_sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Scale(StrEnum):
    """How large a recipe is run; the code is the same."""

    tiny = "tiny"
    default = "default"
    gpu = "gpu"


class Verdict(StrEnum):
    """Whether a claim is borne out."""

    holds = "holds"
    fails = "does not hold at this scale"
    undecided = "undecided at this scale"

    @classmethod
    def of(cls, low: float, high: float, above: float = 0.0) -> Verdict:
        """Of the claim that a quantity is above a threshold, from the quantity's interval."""
        if low > above:
            return cls.holds
        return cls.fails if high < above else cls.undecided


@dataclass(frozen=True)
class Line:
    """One row of a recipe's table.

    Attributes:
        quantity: what is compared.
        paper: what was published.
        ours: what came out here.
        interval: its interval, with the level; empty if it has none.
        verdict: empty for a figure that is no claim.
    """

    quantity: str
    paper: str
    ours: str
    interval: str = ""
    verdict: Verdict | str = ""


@dataclass(frozen=True)
class Findings:
    """What a recipe found.

    Attributes:
        lines: paper beside ours.
        figures: everything behind them, as JSON can hold it.
        draw: draws the plot on a figure of matplotlib.
        notes: what a reader must know: seeds, sizes, what the scale does not allow.
    """

    lines: tuple[Line, ...]
    figures: dict[str, Any]
    draw: Callable[[Figure], None]
    notes: tuple[str, ...] = ()


@dataclass
class Kitchen:
    """Where a recipe is run.

    Attributes:
        scale: how large.
        out: the directory for journals and results.
        seed: of everything random.
        device: where models are trained.
        workers: processes at a time; None for one a core.
        ray: address of a Ray cluster, or None for processes.
        progress: told of the runs.
        failures: jobs of its sweeps that failed.
        cpu_seconds: that the finished jobs of its sweeps took.
    """

    scale: Scale
    out: Path
    seed: int = 0
    device: str = "cpu"
    workers: int | None = None
    ray: str | None = None
    progress: Progress = SILENT
    failures: list[Failure] = field(default_factory=list)
    cpu_seconds: float = 0.0

    def sweep(self, jobs: Sequence[Job], function: Callable[[Job], dict[str, Any]], description: str = "runs") -> Sweep:
        """Do jobs, as octavo.laws.sweeps.run_sweep does; failures end up in the report.

        Raises:
            LawError: every job failed.
        """
        done = run_sweep(
            jobs, function, self.out, workers=self.workers, ray=self.ray, progress=self.progress,
            description=description,
        )  # fmt: skip
        self.failures.extend(done.failures)
        self.cpu_seconds += done.cpu_seconds
        if not done.rows:
            raise LawError(f"all {len(jobs)} {description} failed, the first with: {done.failures[0].message}")
        return done


class Recipe(Protocol):
    """A module of this room has a function like this, called `cook`."""

    def __call__(self, kitchen: Kitchen) -> Findings: ...
