"""How large the recipes' models are, and what a token costs, against what torch counts."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from octavo.recipes.language_models import Size, operations_per_token, parameter_count, schedule
from octavo.training import next_token_loss


@pytest.mark.parametrize("size", [Size(32, 2, 2), Size(96, 3, 4)])
def test_parameters_are_those_of_the_network(size: Size) -> None:
    network = size.network(50, 48, 0)
    assert parameter_count(network.config) == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(("size", "length"), [(Size(32, 2, 2), 48), (Size(192, 2, 4), 16)])
def test_operations_are_those_that_torch_counts(size: Size, length: int, generator: torch.Generator) -> None:
    network = size.network(50, length, 0)
    tokens = torch.randint(0, 50, (4, length + 1), generator=generator)
    # Attention in one kernel is not counted on a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        next_token_loss(network, {"tokens": tokens}, generator)[0].backward()
    counted = counter.get_total_flops() / (4 * length)
    assert counted == pytest.approx(operations_per_token(network.config, length), rel=0.06)
    if length < 12 * size.hidden / 100:
        assert counted == pytest.approx(6 * parameter_count(network.config), rel=0.1)


def test_schedules_use_the_tokens_and_keep_batches_large_enough() -> None:
    assert schedule(48_000, 48, 100, 8) == (100, 10)
    assert schedule(4_800, 48, 100, 8) == (13, 8)
    assert schedule(1, 48, 100, 1) == (1, 1)
