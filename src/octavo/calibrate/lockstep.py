"""Forward passes of several sequences that wait for each other at every layer.

Rounding with error feedback goes through a model layer by layer: all sequences must have come through a layer's
predecessors, as these are after rounding, before its own inputs are known. What lies between the layers is the model's
own code, whatever its architecture; so each sequence runs through that code in a thread of its own, which hands over at
each layer what the layer was called with and sleeps until it is given the outputs. One thread runs at a time, in the
order of the sequences, so that nothing depends on chance.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from octavo.calibrate.recomputing import layers_of
from octavo.calibrate.running import Samples, logits


@dataclass(frozen=True, eq=False)
class Call:
    """What a layer was called with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


Visit = Callable[[nn.Module, Sequence[Call]], Sequence[Any]]
"""Told a layer and one call for each sequence; returns the outputs."""


def in_lockstep(model: Any, sequences: Samples, visit: Visit) -> None:
    """Run sequences through a model, calling `visit` at each of its layers in the order in which they are run.

    Args:
        model: a transformers model in evaluation mode.
        sequences: token ids, or the inputs of another model by name.
        visit: what takes the place of the layers.
    """
    runs = [_Run(partial(logits, model, sample)) for sample in sequences]
    with _handed_over(model, runs):
        try:
            while True:
                waiting = [run for run in runs if run.go_on()]
                if not waiting:
                    return
                layer = waiting[0].layer
                outputs = visit(layer, [run.call for run in waiting])
                for run, output in zip(waiting, outputs, strict=True):
                    run.output = output
        finally:
            for run in runs:
                run.give_up()


class _Abandoned(BaseException):
    """Ends the thread of a pass that nobody waits for."""


@dataclass(eq=False)
class _Run:
    """One sequence's pass: a thread that is awake only inside `go_on`."""

    work: Callable[[], Any]
    output: Any = None
    _thread: threading.Thread | None = None
    _awake: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _asleep: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _at: tuple[nn.Module, Call] | None = None
    _error: BaseException | None = None
    _abandoned: bool = False

    @property
    def layer(self) -> nn.Module:
        assert self._at is not None
        return self._at[0]

    @property
    def call(self) -> Call:
        assert self._at is not None
        return self._at[1]

    def go_on(self) -> bool:
        """Run to the next layer; False at the end."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._through, args=(torch.get_num_threads(),), daemon=True)
            self._thread.start()
        else:
            self._at = None
            self._awake.release()
        self._asleep.acquire()
        if self._error is not None:
            raise self._error
        return self._at is not None

    def give_up(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            self._abandoned = True
            self._awake.release()
            self._thread.join()

    def hand_over(self, layer: nn.Module, call: Call) -> Any:
        """From within the thread: sleep until there are outputs."""
        self._at = layer, call
        self._asleep.release()
        self._awake.acquire()
        if self._abandoned:
            raise _Abandoned
        output, self.output = self.output, None
        return output

    def _through(self, threads: int) -> None:
        # Both are a thread's own.
        torch.set_num_threads(threads)
        try:
            with torch.no_grad():
                self.work()
            self._at = None
        except _Abandoned:
            return
        except BaseException as error:
            self._error = error
        self._asleep.release()


@contextlib.contextmanager
def _handed_over(model: Any, runs: Sequence[_Run]) -> Iterator[None]:
    """Within, a layer that a run's thread calls hands over; called from elsewhere it is itself."""
    layers = list(layers_of(model))

    def hand_over(layer: nn.Module, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        current = threading.current_thread()
        for run in runs:
            if run._thread is current:
                return run.hand_over(layer, Call(args, kwargs))
        return own(*args, **kwargs)

    for layer in layers:
        layer.forward = partial(hand_over, layer, layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
