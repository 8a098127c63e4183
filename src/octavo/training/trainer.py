"""The trainer: steps of an optimizer on whatever an objective says, over whatever a source gives.

A run is a function of its config, model, objective and source: batches are functions of the step, random numbers of the
seed and the batch, and so a run that was interrupted goes on to the same bits (on a CPU), and processes that share the
micro-batches of a step get what one would get, up to the order of sums.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from octavo.base.errors import TrainingError
from octavo.base.progress import SILENT, Progress
from octavo.checkpoints.durable import disk_errors, locked_directory
from octavo.training import checkpointing
from octavo.training.checkpointing import Position, as_losses
from octavo.training.configuration import TrainingConfig
from octavo.training.diagnosis import first_not_finite
from octavo.training.metrics import JsonLines, Metrics, TensorBoard
from octavo.training.objective import Batch, Objective
from octavo.training.optimizers import make_optimizer
from octavo.training.processes import Processes, gathering, joined, recomputing, shared
from octavo.training.result import TrainingResult
from octavo.training.schedules import learning_rate_share
from octavo.training.seeding import generator_of
from octavo.training.sources import Source
from octavo.training.state import Hook, State, gathered
from octavo.training.stopping import StopRequest, stop_requests


def train(
    model: nn.Module,
    objective: Objective,
    source: Source,
    config: TrainingConfig,
    *,
    directory: str | Path | None = None,
    held_out: Source | None = None,
    hooks: Sequence[Hook] = (),
    identity: Mapping[str, str] | None = None,
    progress: Progress = SILENT,
) -> TrainingResult:
    """Train a model in place.

    Under torchrun every process calls this alike. Randomness comes from the generator that the objective is given;
    layers that draw from torch's global one make a run that cannot be gone on with exactly.

    Args:
        model: to train; its parameters are moved to the config's device.
        objective: what is minimized.
        source: micro-batches, of which a step takes `optimizer.accumulation`.
        config: the run; of `model` and `data` nothing is looked at here.
        directory: where checkpoints and metrics go, and from where the run is gone on with; None for no files at all.
        held_out: micro-batches for evaluations.
        hooks: called before each step; those with `state_dict` and `load_state_dict` are in the checkpoints.
        identity: what else must be the same when the run is gone on with, such as hashes of text and tokenizer.
        progress: told how far training is, with loss and tokens a second.

    Raises:
        TrainingError: the loss or the gradient is not finite, or a process is gone.
        CheckpointError: the directory has a checkpoint of another run.
        ConfigurationError: settings that do not go together.
        OutputError: the directory cannot be written, or another process is training there.
    """
    with joined(config) as processes, recomputing(model, config.precision.recompute):
        run = _Run(model, objective, source, config, held_out, hooks, identity or {}, progress, processes)
        if directory is None:
            return run.train(None, StopRequest())
        place = Path(directory).expanduser()
        with disk_errors(place):
            place.mkdir(parents=True, exist_ok=True)
        locked = locked_directory(place, place) if processes.first else contextlib.nullcontext()
        with locked, stop_requests(listening=True) as request:
            return run.train(place, request)


class _Run:
    """One call of `train`."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        source: Source,
        config: TrainingConfig,
        held_out: Source | None,
        hooks: Sequence[Hook],
        identity: Mapping[str, str],
        progress: Progress,
        processes: Processes,
    ) -> None:
        self.model, self.objective, self.source, self.config = model, objective, source, config
        self.held_out, self.identity, self.progress, self.processes = held_out, identity, progress, processes
        learning_rate_share(0, config.steps, config.schedule)  # An unknown schedule is said before any work.
        self.called = shared(model, config, processes)
        self.state = State(model, make_optimizer(model, config.optimizer), hooks)
        self.rates = [float(group["lr"]) for group in self.state.optimizer.param_groups]
        self.losses: list[float] = []
        self.evaluations: list[tuple[int, float]] = []
        self.seconds = 0.0
        self.saved = -1
        self.reported = (0, 0.0)

    def train(self, directory: Path | None, request: StopRequest) -> TrainingResult:
        start = 0 if directory is None else self._resume(directory)
        if start == self.config.steps:
            return self._result()
        written = self._metrics(directory, start)
        self.model.train()
        config, steps, done = self.config, self.config.steps, start
        self.reported = (start, self.seconds)
        with contextlib.ExitStack() as stack:
            for each in written:
                stack.callback(each.close)
            for step in self.progress.track(range(start, steps), self._described, steps - start):
                began = time.monotonic()
                figures, stopping = self._step(step, request, directory)
                self.seconds += time.monotonic() - began
                self.losses.append(figures["loss"])
                done = step + 1
                last = done == steps or stopping
                if written and (done % config.logging.every == 0 or last):
                    figures |= {
                        "tokens": self._tokens(done),
                        "seconds": self.seconds,
                        "tokens_per_second": self._rate(),
                    }
                    self.reported = (done, self.seconds)
                    for each in written:
                        each.write(done, figures)
                due = config.logging.evaluate and done % config.logging.evaluate == 0
                if self.held_out is not None and (due or done == steps):
                    self.evaluations.append((done, self._evaluate(self.held_out)))
                    for each in written:
                        each.write(done, {"held_out_loss": self.evaluations[-1][1]})
                if directory is not None and (done % config.checkpointing.every == 0 or last):
                    self._save(directory, done)
                if stopping:
                    break
        if done < steps:
            self.progress.message(f"Stopped after step {done} of {steps}, which is saved")
        if request.signal == signal.SIGINT:
            raise KeyboardInterrupt
        return self._result()

    def _result(self) -> TrainingResult:
        done = len(self.losses)
        return TrainingResult(
            as_losses(self.losses),
            tuple(self.evaluations),
            self._tokens(done),
            self.seconds,
            done,
            finished=done == self.config.steps,
        )

    def _described(self) -> str:
        return f"Training: loss {self.losses[-1]:.4f}, {self._rate():,.0f} tokens/s" if self.losses else "Training"

    def _tokens(self, steps: int) -> int:
        return steps * self.config.optimizer.accumulation * self.source.tokens

    def _rate(self) -> float:
        """Tokens a second since the last report, or up to it."""
        step, seconds = self.reported if len(self.losses) > self.reported[0] else (0, 0.0)
        return self._tokens(len(self.losses) - step) / max(self.seconds - seconds, 1e-9)

    def _step(self, step: int, request: StopRequest, directory: Path | None) -> tuple[dict[str, float], bool]:
        """One step of the optimizer: its figures, and whether any process was asked to stop."""
        config, optimizer = self.config, self.state.optimizer
        for hook in self.state.hooks:
            hook(step, self.model, optimizer)
        share = learning_rate_share(step, config.steps, config.schedule)
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share
        sums, names = self._backward(step)
        norm = self._clip()
        stop = torch.tensor(float(request.signal is not None), device=sums.device)
        means = self.processes.mean(torch.cat([sums, stop[None]]))
        loss, *rest, stopping, length = torch.cat([means, norm[None]]).tolist()
        if not (math.isfinite(loss) and math.isfinite(length)):
            self._refuse(step, loss, directory)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        figures = {"loss": loss, "learning_rate": share * config.optimizer.learning_rate, "gradient_norm": length}
        return figures | dict(zip(names, rest, strict=True)), stopping > 0

    def _own(self, step: int) -> Iterator[tuple[int, Batch]]:
        """This process's micro-batches of a step."""
        world, whole = self.processes.world, self.config.optimizer.accumulation
        for number in range(whole // world):
            index = step * whole + self.processes.rank * (whole // world) + number
            yield index, self._placed(self.source.batch(index))

    def _placed(self, batch: Batch) -> Batch:
        return {name: tensor.to(self.processes.device, non_blocking=True) for name, tensor in batch.items()}

    def _backward(self, step: int) -> tuple[Tensor, tuple[str, ...]]:
        """Gradients of the step's mean loss; the loss and the objective's figures as means over own micro-batches."""
        count = self.config.optimizer.accumulation // self.processes.world
        total: Tensor | None = None
        names: tuple[str, ...] = ()
        for number, (index, batch) in enumerate(self._own(step)):
            with gathering(self.called, self.model, number + 1 == count):
                loss, figures = self._loss(self.called, "objective", index, batch)
                (loss / count if count > 1 else loss).backward()
            names = tuple(figures)
            found = torch.stack([loss.detach().float(), *(figures[name].detach().float() for name in names)]) / count
            total = found if total is None else total + found
        assert total is not None
        return total, names

    def _loss(self, called: nn.Module, purpose: str, index: int, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        device = self.processes.device
        generator = generator_of(self.config.seed, purpose, index, device)
        narrow = self.config.precision.dtype == "bfloat16"
        with torch.autocast(device.type, torch.bfloat16) if narrow else contextlib.nullcontext():
            return self.objective(called, batch, generator)

    def _clip(self) -> Tensor:
        """The norm of the whole gradient, which is then shortened to `optimizer.clip`."""
        trained = [each for each in self.model.parameters() if each.grad is not None]
        norm = gathered(nn.utils.get_total_norm([each.grad for each in trained if each.grad is not None], foreach=True))
        if self.config.optimizer.clip:
            nn.utils.clip_grads_with_norm_(trained, self.config.optimizer.clip, norm, foreach=True)
        return norm

    @torch.no_grad()
    def _evaluate(self, held_out: Source) -> float:
        """The mean loss of the first batches of held-out data, shared among the processes."""
        self.model.eval()
        world, rank = self.processes.world, self.processes.rank
        total, count = torch.zeros((), device=self.processes.device), self.config.logging.evaluation_batches
        # Every process calls the model as often, for sharded layers are gathered in all of them at once.
        for first in range(0, count, world):
            index = first + rank
            loss, _ = self._loss(self.called, "evaluation", index, self._placed(held_out.batch(index % count)))
            total = total + (loss.float() if index < count else 0.0)
        self.model.train()
        return float(self.processes.mean(total)) * world / count

    def _refuse(self, step: int, loss: float, directory: Path | None) -> None:
        """Stop before the weights are touched, and say where it began."""

        def batches() -> list[Batch]:
            return [batch for _, batch in self._own(step)]

        def again() -> None:
            for index, batch in self._own(step):
                self._loss(self.model, "objective", index, batch)

        where = self.processes.agreed(first_not_finite(self.model, batches, again)) or "only the sum of the gradients"
        kept = None if directory is None else checkpointing.newest(directory)
        remedy = "" if kept is None else f"{kept} is the last good checkpoint; "
        remedy += "lower optimizer.learning_rate, lengthen schedule.warmup, or compute in float32"
        what = f"the loss is {loss}" if not math.isfinite(loss) else "the gradient is not finite"
        raise TrainingError(f"{what} at step {step}: {where} is the first that is not finite", remedy)

    def _resume(self, directory: Path) -> int:
        if self.processes.first:
            checkpointing.discard_parts(directory)
        found = checkpointing.load(directory, self.state, self.config, self.identity)
        if found is None:
            return 0
        position, losses = found
        self.losses, self.seconds, self.saved = losses.tolist(), position.seconds, position.step
        self.evaluations = [*position.held_out]
        if position.step < self.config.steps:
            self.progress.message(f"Going on from step {position.step} in {directory}")
        return position.step

    def _save(self, directory: Path, done: int) -> None:
        if self.saved == done:
            return
        position = Position(done, self.seconds, tuple(self.evaluations))
        losses = as_losses(self.losses)
        checkpointing.save(directory, self.state, position, losses, self.config, self.identity, self.processes)
        self.saved = done

    def _metrics(self, directory: Path | None, start: int) -> list[Metrics]:
        if directory is None or not self.processes.first:
            return []
        written: list[Metrics] = [JsonLines(directory, start)]
        if self.config.logging.tensorboard:
            written.append(TensorBoard(directory, start))
        return written
