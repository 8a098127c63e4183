"""The noise probe, the fine-tuning sweep and the inflection, on networks that take no time to train."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from octavo.base.errors import LawError
from octavo.laws.overtraining import (
    finetune_sweep,
    inflection,
    perturb,
    reference_scales,
    sensitivity_curve,
)
from octavo.training import TrainingConfig

SEEDS = range(8)


@pytest.fixture
def network(generator: torch.Generator) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))


def of_data(seed: int):
    """A loss on fixed data: cross entropy of a labeling that a random linear map gives."""
    draw = torch.Generator().manual_seed(seed)
    inputs = torch.randn(64, 6, generator=draw)
    labels = (inputs @ torch.randn(6, 3, generator=draw)).argmax(1)
    return inputs, labels


def loss_on(seed: int):
    inputs, labels = of_data(seed)
    return lambda model: float(nn.functional.cross_entropy(model(inputs), labels).detach())


class Labels:
    """The same data as a source of batches."""

    tokens = 64

    def batch(self, index: int) -> dict[str, Tensor]:
        inputs, labels = of_data(1)
        return {"inputs": inputs, "labels": labels}


def objective(model, batch, generator):
    return nn.functional.cross_entropy(model(batch["inputs"]), batch["labels"]), {}


def trained(network: nn.Module, steps: int) -> nn.Module:
    model = copy.deepcopy(network)
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        objective(model, Labels().batch(0), None)[0].backward()
        optimizer.step()
    return model


def test_no_noise_changes_nothing_bit_for_bit(network: nn.Module, generator: torch.Generator) -> None:
    parameters = dict(network.named_parameters())
    for name, value in perturb(parameters, 0.0, reference_scales(network), generator).items():
        assert torch.equal(value, parameters[name])
    (row,) = sensitivity_curve({1: network}, [0.0], SEEDS, loss_on(0), reference_scales(network))
    assert row.added == 0
    assert row.error == 0


def test_noise_has_the_scale_it_was_given(generator: torch.Generator) -> None:
    zeros = {"a": torch.zeros(200, 300), "b": torch.zeros(500)}
    changed = perturb(zeros, 0.1, {"a": 2.0, "b": 0.0}, generator)
    assert float(changed["a"].std()) == pytest.approx(0.2, rel=0.02)
    assert not changed["b"].any()


def test_draws_are_the_same_for_every_model(network: nn.Module) -> None:
    scales = reference_scales(network)
    first, again = sensitivity_curve({1: network, 2: copy.deepcopy(network)}, [0.3], SEEDS, loss_on(0), scales)
    assert (first.tokens, again.tokens) == (1, 2)
    assert np.array_equal(first.perturbed, again.perturbed)
    assert first.error > 0


def test_small_noise_adds_half_its_square_times_the_trace(network: nn.Module) -> None:
    # At a minimum, where the first order is gone for every draw.
    model = trained(network, 60)
    scales = reference_scales(network)
    loss, gamma = loss_on(1), 0.03
    one, two = sensitivity_curve({1: model}, [gamma, 2 * gamma], range(300), loss, scales)
    inputs, labels = of_data(1)
    names, values = zip(*model.named_parameters(), strict=True)

    def of(*parameters: Tensor) -> Tensor:
        called = torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (inputs,))
        return nn.functional.cross_entropy(called, labels)

    draw = torch.Generator().manual_seed(0)
    traces = []
    for _ in range(200):
        probe = tuple(
            scales[name] * (2.0 * torch.randint(0, 2, value.shape, generator=draw) - 1)
            for name, value in zip(names, values, strict=True)
        )
        _, curved = torch.autograd.functional.hvp(of, tuple(value.detach() for value in values), probe)
        traces.append(sum(float((p * c).sum()) for p, c in zip(probe, curved, strict=True)))
    assert one.added == pytest.approx(0.5 * gamma**2 * np.mean(traces), rel=0.2)
    assert 3.5 < two.added / one.added < 4.5


def test_scales_may_follow_the_model(network: nn.Module) -> None:
    larger = copy.deepcopy(network)
    with torch.no_grad():
        for value in larger.parameters():
            value.mul_(3)
    fixed = sensitivity_curve({1: larger}, [0.1], SEEDS, loss_on(0), reference_scales(network))[0]
    relative = sensitivity_curve({1: larger}, [0.1], SEEDS, loss_on(0), reference_scales)[0]
    tripled = sensitivity_curve({1: larger}, [0.3], SEEDS, loss_on(0), reference_scales(network))[0]
    assert relative.perturbed == pytest.approx(tripled.perturbed, rel=1e-5)
    assert relative.mean != fixed.mean


def test_fine_tuning_at_rate_zero_changes_nothing_and_at_others_learns_the_task(network: nn.Module) -> None:
    before = copy.deepcopy(network.state_dict())
    config = TrainingConfig().changed({"steps": 30, "schedule.warmup": 0, "precision.device": "cpu"})
    losses = {"task": loss_on(1), "text": loss_on(2)}
    table = finetune_sweep(network, [0.0, 0.03], objective, Labels(), config, losses)
    assert table[0.0] == {name: loss(network) for name, loss in losses.items()}
    assert table[0.03]["task"] < 0.7 * table[0.0]["task"]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_inflection_finds_the_turn_and_how_sure_it_is() -> None:
    random = np.random.default_rng(0)
    tokens = [1, 2, 4, 8, 16]
    turning = np.array([3.0, 2.0, 1.5, 1.8, 2.4]) + 0.05 * random.standard_normal((5, 5))
    found = inflection(tokens, turning)
    assert (found.tokens, found.probability) == (4, 1.0)
    assert found.excess == pytest.approx(0.9, abs=0.1)
    assert found.beyond_noise
    falling = inflection(tokens, np.array([[3.0, 2.0, 1.5, 1.3, 1.2]] * 2))
    assert (falling.tokens, falling.probability, falling.excess) == (16, 0.0, 0.0)
    assert not falling.beyond_noise
    alone = inflection(tokens, turning[:1])
    assert math.isnan(alone.error)
    assert not alone.beyond_noise
    with pytest.raises(LawError, match="a row for each seed"):
        inflection(tokens, np.ones((2, 3)))
