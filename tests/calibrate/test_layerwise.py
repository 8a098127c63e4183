"""Going through a model layer by layer, all sequences together."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from octavo.calibrate.hessian import Moments, layerwise
from octavo.calibrate.lockstep import Call, in_lockstep
from octavo.calibrate.running import logits
from octavo.models import load_language_model

TOKENS = torch.randint(0, 200, (3, 12), generator=torch.Generator().manual_seed(0))
PROJECTION = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def model(tiny_llama: Path) -> Any:
    return load_language_model(tiny_llama)[0]


def strengths(model: Any, size: int = TOKENS.numel()) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(1)
    return {n: torch.rand(size, generator=draws) for n, _ in model.named_parameters() if "_proj" in n}


def test_every_layer_is_visited_once_by_all_sequences_and_threads_end(model: Any) -> None:
    seen: list[tuple[torch.nn.Module, int]] = []
    outputs: list[Tensor] = []

    def visit(layer: torch.nn.Module, calls: Sequence[Call]) -> list[Any]:
        seen.append((layer, len(calls)))
        with torch.no_grad():
            found = [layer(*call.args, **call.kwargs) for call in calls]
        outputs[:] = found
        return found

    before = set(threading.enumerate())
    in_lockstep(model, TOKENS, visit)
    assert seen == [(layer, 3) for layer in model.model.layers]
    assert not set(threading.enumerate()) - before
    kept: list[Tensor] = []
    hook = model.model.layers[-1].register_forward_hook(lambda _, __, output: kept.append(output))
    with torch.no_grad():
        for row in TOKENS:
            logits(model, row)
    hook.remove()
    for ours, plain in zip(outputs, kept, strict=True):
        torch.testing.assert_close(ours, plain)


def test_an_error_in_a_layer_is_raised_and_leaves_no_thread_and_no_trace(model: Any) -> None:
    before, plain = set(threading.enumerate()), logits(model, TOKENS[0])
    with pytest.raises(KeyError, match="layer"):
        in_lockstep(model, TOKENS, lambda layer, calls: {}["layer"])
    assert not set(threading.enumerate()) - before
    torch.testing.assert_close(logits(model, TOKENS[0]), plain)


def test_an_error_in_the_model_itself_is_raised(model: Any) -> None:
    with pytest.raises(IndexError):
        in_lockstep(model, TOKENS + 1_000_000, lambda layer, calls: [])


def test_moments_are_those_of_the_inputs_weighed_by_strength(model: Any) -> None:
    weigh, found = strengths(model), {}
    inputs: list[Tensor] = []
    module = model.model.layers[1].mlp.down_proj
    hook = module.register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()[0]))
    with torch.no_grad():
        for row in TOKENS:
            logits(model, row)
    hook.remove()
    layerwise(model, TOKENS, weigh, lambda name, values, moments: found.update({name: moments}))
    assert found.keys() == weigh.keys()
    x, s = torch.cat(inputs).double(), weigh[PROJECTION].double()

    def expected(chosen: Tensor) -> Tensor:
        return (x * (s * chosen)[:, None]).T @ x / (s * chosen).sum()

    number = torch.arange(len(TOKENS)).repeat_interleave(TOKENS.shape[1])
    for seen, chosen in (
        (found[PROJECTION].whole, number >= 0),
        (found[PROJECTION].half(0), number % 2 == 0),
        (found[PROJECTION].half(1), number % 2 == 1),
    ):
        torch.testing.assert_close(seen.double(), expected(chosen), rtol=1e-4, atol=1e-7)


def test_later_layers_see_what_earlier_ones_became(model: Any) -> None:
    def moments(replace: Any) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def take(name: str, values: Tensor, seen: Moments) -> Tensor | None:
            found[name] = seen.whole
            return replace(name, values)

        layerwise(model, TOKENS, strengths(model), take)
        return found

    plain = moments(lambda name, values: None)
    changed = moments(lambda name, values: values * 2 if ".layers.0." in name else None)
    again = moments(lambda name, values: None)
    for name, seen in plain.items():
        assert torch.equal(seen, again[name])
        assert torch.equal(seen, changed[name]) == (".layers.0." in name)


def test_matrices_without_strengths_for_every_token_are_left_alone(model: Any) -> None:
    found: list[str] = []
    layerwise(model, TOKENS, strengths(model, size=7), lambda name, values, moments: found.append(name))
    assert not found
