"""Known laws are recognized."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from octavo.measure.statistics import describe, student_df

COUNT = 200_000


def sample(df: float) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_t(df, COUNT)).float()


@pytest.mark.parametrize("df", [3.0, 5.0, 10.0])
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_a_students_df_is_found_at_every_scale(df: float, scale: float) -> None:
    found = student_df(scale * sample(df))
    assert found == pytest.approx(df, rel=0.15)


def test_normal_data_has_kurtosis_three_and_a_large_df(generator: torch.Generator) -> None:
    values = 0.02 * torch.randn(COUNT, generator=generator)
    found = describe(values.reshape(400, -1))
    assert found.rms == pytest.approx(0.02, rel=0.01)
    assert found.kurtosis == pytest.approx(3, abs=0.05)
    assert found.df is not None
    assert found.df > 40


def test_kurtosis_is_over_all_values() -> None:
    values = torch.ones(10_000, dtype=torch.bfloat16)
    values[7] = 100
    found = describe(values)
    second = (9999 + 100**2) / 10_000
    assert found.kurtosis == pytest.approx((9999 + 100**4) / 10_000 / second**2)
    assert found.df is None


def test_data_without_a_law_has_none() -> None:
    assert describe(torch.zeros(5, 5)).kurtosis is None
    assert describe(torch.ones(64)).df is None
    assert describe(torch.empty(0)).rms == 0
    mostly_zero = torch.zeros(1000)
    mostly_zero[:300] = torch.arange(300)
    assert student_df(mostly_zero) is None
