"""The processes of a run that torchrun started, or the only one; and how a model is shared among them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor, nn

from octavo.base.errors import ConfigurationError, TrainingError
from octavo.training.configuration import TrainingConfig


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Attributes:
        rank: its number; 0 writes the files.
        world: how many there are.
        device: where this one computes.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes, element by element; the same bits in each."""
        if self.world > 1:
            torch.distributed.all_reduce(values)
            values /= self.world
        return values

    def agreed(self, problem: str) -> str:
        """The first process's problem that has one, told to all; empty where none has."""
        if self.world == 1:
            return problem
        problems = [""] * self.world
        torch.distributed.all_gather_object(problems, problem)
        return next(filter(None, problems), "")


@contextlib.contextmanager
def joined(config: TrainingConfig) -> Iterator[Processes]:
    """Join the others, if torchrun started several, for the time of a run.

    Raises:
        ConfigurationError: there are several and the config does not say how they share, their number does not divide
            the micro-batches of a step, or there is no such device.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = _device(config.precision.device)
    if world == 1:
        yield Processes(0, 1, device)
        return
    if config.distributed.strategy == "none":
        raise ConfigurationError(
            f"torchrun started {world} processes, and distributed.strategy is none", "choose ddp or fsdp"
        )
    if config.optimizer.accumulation % world:
        raise ConfigurationError(
            f"{config.optimizer.accumulation} micro-batches a step cannot be shared by {world} processes",
            "make optimizer.accumulation a multiple of the processes, and data.batch smaller by as much",
        )
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    own = not torch.distributed.is_initialized()
    if own:
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(rank, world, device)
    except RuntimeError as error:
        # gloo says with a plain RuntimeError that a peer is gone.
        if not isinstance(error, torch.distributed.DistError) and not re.search("gloo|Connection", str(error)):
            raise
        raise TrainingError(
            f"the processes lost each other ({str(error).partition('. ')[0].strip()})",
            "start the same command again: it goes on from the last checkpoint",
        ) from error
    finally:
        if own:
            torch.distributed.destroy_process_group()


def shared(model: nn.Module, config: TrainingConfig, processes: Processes) -> nn.Module:
    """The model as it is to be called: on its device, shared among the processes, compiled.

    Its parameters are still those of `model`, which with `fsdp` are sharded in place.
    """
    model.to(processes.device)
    sharing = config.distributed.strategy if processes.world > 1 else "none"
    if sharing == "fsdp":
        from torch.distributed.fsdp import fully_shard

        for block in getattr(model, "blocks", ()):
            fully_shard(block)
        fully_shard(model)
    called: nn.Module = torch.compile(model) if config.precision.compile else model  # pyright: ignore[reportAssignmentType]
    if sharing == "ddp":
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(called)
    return called


@contextlib.contextmanager
def gathering(called: nn.Module, model: nn.Module, last: bool) -> Iterator[None]:
    """Within, gradients of micro-batches before the last of a step stay in this process."""
    if isinstance(called, nn.parallel.DistributedDataParallel):
        with contextlib.nullcontext() if last else called.no_sync():
            yield
        return
    # Asked by name: FSDP takes a second to import, and most runs are of one process.
    if (synchronize := getattr(model, "set_requires_gradient_sync", None)) is not None:
        synchronize(last)
    yield


@contextlib.contextmanager
def recomputing(model: nn.Module, asked: bool) -> Iterator[None]:
    """Within, each block keeps its input only and is computed again in the backward pass.

    Chen et al., 2016, https://arxiv.org/abs/1604.06174.

    Raises:
        ConfigurationError: the model has no `blocks`.
    """
    if not asked:
        yield
        return
    from torch.utils.checkpoint import checkpoint

    blocks = getattr(model, "blocks", None)
    if not blocks:
        raise ConfigurationError("this model does not say of which blocks it is made", "set precision.recompute=false")

    def again(block: nn.Module) -> None:
        plain = block.forward

        def forward(*arguments: Tensor) -> Tensor:
            found = checkpoint(plain, *arguments, use_reentrant=False, preserve_rng_state=False)
            assert isinstance(found, Tensor)
            return found

        block.forward = forward

    for block in blocks:
        again(block)
    try:
        yield
    finally:
        for block in blocks:
            # The instance's own attribute hides the method of the class.
            del block.forward


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigurationError(f"there is no device {name!r}", "choose cpu, cuda or cuda:1") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("this machine has no GPU that torch can use", "set precision.device=cpu")
    return device
