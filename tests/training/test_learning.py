"""What learns in the place of a stored tensor: values as in the file, gradients of codes, scales and gains."""

from __future__ import annotations

import pytest
import torch

import octavo
from octavo.formats.frozen import freeze_parts
from octavo.formats.tuning import tunable
from octavo.training.precision.learning import RATIO, LearningVector, LearningWeight


@pytest.mark.parametrize(
    "text",
    [
        "lloyd@2 b64 search:s8",
        "int@3 tensor absmax:fp32",
        "lloyd@2 channel absmean:bf16",
        "columns(int@8=16,lloyd@3=70,lloyd@2) b32 absmax:u8",
    ],
)
def test_scales_get_the_gradient_of_the_values(text: str, generator: torch.Generator) -> None:
    weights, upstream = (torch.randn(6, 130, generator=generator) for _ in range(2))
    start = octavo.parse(text).quantize(weights)
    weight, learning = LearningWeight(start, freeze_parts(start), 0.5), (2 * weights).requires_grad_()
    values = weight(learning)
    assert torch.equal(values, start.dequantize())
    (upstream * values).sum().backward()
    assert learning.grad is not None
    assert torch.equal(learning.grad, 0.5 * upstream)
    function = tunable(start, torch.device("cpu"))
    assert function is not None
    deviations = {name: torch.zeros(size, requires_grad=True) for name, size in function.sizes.items()}
    (upstream * function.values(deviations)).sum().backward()
    assert weight.logarithms
    for name, logarithm in weight.logarithms.items():
        expected = deviations[name].grad
        assert logarithm.grad is not None
        assert expected is not None
        torch.testing.assert_close(logarithm.grad, RATIO * expected)


def test_what_is_computed_with_is_what_is_stored(generator: torch.Generator) -> None:
    start = octavo.parse("columns(int@8=16,lloyd@3) b16 absmax:s8").quantize(torch.randn(8, 70, generator=generator))
    weight, learning = LearningWeight(start, freeze_parts(start), 1.0), torch.randn(8, 70, generator=generator)
    for logarithm in weight.logarithms.values():
        logarithm.data.normal_(0, 0.05, generator=generator)
    parts = weight.parts(learning)
    stored = octavo.QuantizedTensor(start.format, start.shape, parts)
    assert torch.equal(weight(learning), stored.dequantize())
    moved = [name for name, part in start.parts.items() if not torch.equal(part, parts[name])]
    assert {name.split("_")[0] for name in moved} == {"codes", "scales"}


def test_outliers_and_coarse_scales_stay(generator: torch.Generator) -> None:
    for text in ("lloyd@2 b64 absmean:bf16 outliers=0.02", "mxfp4", "e2m1 b16 absmax:e4m3"):
        start = octavo.parse(text).quantize(torch.randn(8, 70, generator=generator))
        weight = LearningWeight(start, freeze_parts(start), 1.0)
        assert not weight.logarithms
        assert torch.equal(weight(start.dequantize()), freeze_parts(start).values(start.dequantize()))


def test_a_vector_is_what_its_dtype_holds(generator: torch.Generator) -> None:
    stored = torch.randn(40, generator=generator).bfloat16()
    vector = LearningVector(stored, "cpu")
    assert torch.equal(vector(torch.empty(0)), stored.float())
    vector.deviation.data.normal_(0, 0.02, generator=generator)
    values = vector(torch.empty(0))
    assert torch.equal(values, vector.parts()[""].float())
    assert not torch.equal(values, stored.float())
    values.sum().backward()
    assert vector.deviation.grad is not None
    assert bool((vector.deviation.grad > 0).all())
