"""The ops as torch sees them: schemas, fake kernels, refusals, and the back end that is named in the log."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

from octavo import kernels
from octavo.base.errors import FormatError
from octavo.kernels import backends, cpu, reference

CODEBOOK = torch.tensor([-1.0, -0.25, 0.25, 1.0])


def arguments(name: str, generator: torch.Generator) -> tuple[object, ...]:
    weights = torch.randn(3, 10, generator=generator)
    scales = torch.rand(3, 3, generator=generator) + 0.5
    codes = torch.randint(0, 4, (30,), generator=generator, dtype=torch.uint8)
    packed = reference.pack(codes, 4)
    grid = codes.view(3, 10).to(torch.int8)
    steps = scales[:, 0].contiguous(), torch.rand(10, generator=generator)
    columns = torch.randn(256, generator=generator), 2, 5, scales[:1, :2], 2, torch.ones(4)
    return {
        "linear": (weights, reference.pack(codes.repeat(2)[:50], 4), scales[:1], CODEBOOK, 4, 5),
        "shift_linear": (weights[:, :4].contiguous(), packed.view(4, 2), *columns),
        "pack": (codes, 4),
        "unpack": (packed, 4, 30),
        "quantize": (weights, scales, CODEBOOK, 4),
        "quantize_pack": (weights, scales, CODEBOOK, 4),
        "unpack_dequantize": (packed, scales, CODEBOOK, 4, 3, 10, torch.bfloat16),
        "separable_dequantize": (grid, *steps, torch.tensor([-0.9, 0.0, 0.9]), torch.float32),
        "trellis_indices": (weights, codes.view(3, 10), torch.rand(2, 4, 6, generator=generator), 8),
        "trellis_values": (grid, 8),
        "trellis_quantizers": (grid, 8),
        "shift_encode": (weights, torch.randn(256, generator=generator), 2),
        "shift_decode": (packed.view(4, 2), *columns),
    }[name]


@pytest.mark.filterwarnings("ignore")  # opcheck uses what torch itself deprecates
@pytest.mark.parametrize(
    "name",
    [
        "pack",
        "unpack",
        "quantize",
        "quantize_pack",
        "unpack_dequantize",
        "separable_dequantize",
        "trellis_indices",
        "trellis_values",
        "trellis_quantizers",
        "shift_encode",
        "shift_decode",
        "linear",
        "shift_linear",
    ],
)
def test_opcheck(name: str, generator: torch.Generator) -> None:
    torch.library.opcheck(getattr(torch.ops.octavo, name).default, arguments(name, generator))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_floating_weights_are_accepted(dtype: torch.dtype, generator: torch.Generator) -> None:
    weights = torch.randn(3, 10, generator=generator).to(torch.bfloat16)
    scales = torch.ones(3, 3)
    narrow = weights.to(dtype)
    expected = kernels.quantize(weights.float(), scales, CODEBOOK, 4)
    if dtype != torch.float16:
        assert torch.equal(kernels.quantize(narrow, scales, CODEBOOK, 4), expected)
    assert torch.equal(
        kernels.quantize(narrow.float(), scales, CODEBOOK, 4), kernels.quantize(narrow, scales, CODEBOOK, 4)
    )


def test_strided_and_trained_weights_are_accepted(generator: torch.Generator) -> None:
    weights = torch.nn.Parameter(torch.randn(10, 3, generator=generator))
    scales = torch.ones(3, 3)
    expected = kernels.quantize(weights.detach().T.contiguous(), scales, CODEBOOK, 4)
    assert torch.equal(kernels.quantize(weights.T, scales, CODEBOOK, 4), expected)


@pytest.mark.parametrize("shape", [(0, 5), (4, 0)])
def test_empty_tensors_pass(shape: tuple[int, int]) -> None:
    scales = torch.ones(shape[0], -(-shape[1] // 4))
    packed = kernels.quantize_pack(torch.empty(shape), scales, CODEBOOK, 4)
    assert packed.numel() == 0
    assert kernels.unpack_dequantize(packed, scales, CODEBOOK, 4, *shape).shape == shape


@pytest.mark.parametrize(
    ("scales", "codebook", "block", "reason"),
    [
        (torch.ones(3, 2), CODEBOOK, 4, "do not fit 3 rows of 3 blocks"),
        (torch.ones(2, 3), CODEBOOK, 4, "do not fit 3 rows of 3 blocks"),
        (torch.ones(3, 3), CODEBOOK, 0, "block of 0"),
        (torch.full((3, 3), torch.nan), CODEBOOK, 4, "NaN or infinite"),
        (torch.full((3, 3), torch.inf), CODEBOOK, 4, "NaN or infinite"),
        (torch.ones(3, 3), CODEBOOK.flip(0), 4, "not finite and ascending"),
        (torch.ones(3, 3), torch.tensor([0.0, torch.nan]), 4, "not finite and ascending"),
        (torch.ones(3, 3), torch.zeros(1), 4, "alphabet of 1 levels"),
        (torch.ones(3, 3), torch.zeros(257), 4, "alphabet of 257 levels"),
    ],
)
def test_what_does_not_fit_is_refused(
    scales: torch.Tensor, codebook: torch.Tensor, block: int, reason: str, generator: torch.Generator
) -> None:
    with pytest.raises(FormatError, match=reason):
        kernels.quantize_pack(torch.randn(3, 10, generator=generator), scales, codebook, block)


def test_packed_codes_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(FormatError, match="take 8 bytes, but 7 are there"):
        kernels.unpack_dequantize(torch.zeros(7, dtype=torch.uint8), torch.ones(3, 3), CODEBOOK, 4, 3, 10)


def test_damaged_packed_codes_give_values_of_the_codebook(generator: torch.Generator) -> None:
    codebook = torch.arange(11.0)
    damaged = torch.full((kernels.packed_bytes(30, 11),), 255, dtype=torch.uint8)
    values = kernels.unpack_dequantize(damaged, torch.ones(3, 3), codebook, 4, 3, 10)
    assert torch.isin(values, codebook).all()


def test_values_of_other_dtypes_are_refused() -> None:
    with pytest.raises(FormatError, match=r"torch\.float64"):
        kernels.unpack_dequantize(
            torch.zeros(8, dtype=torch.uint8), torch.ones(3, 3), CODEBOOK, 4, 3, 10, torch.float64
        )


def test_a_missing_extension_is_named_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(cpu, "MISSING", "no compiler at installation")
    backends.say_once.cache_clear()
    codes = torch.tensor([0, 1, 2], dtype=torch.uint8)
    with caplog.at_level(logging.WARNING, logger="octavo.kernels"):
        assert torch.equal(kernels.unpack(kernels.pack(codes, 3), 3, 3), codes)
    backends.say_once.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [
        "the C++ kernels are not built, so plain torch runs instead, many times slower (no compiler at installation)"
    ]


def test_a_missing_triton_is_named_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    there = SimpleNamespace(device=torch.device("cuda"))
    monkeypatch.setattr(backends, "_FOUND", False)
    backends.say_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="octavo.kernels"):
        assert [backends.products_on_gpu(there) for _ in range(2)] == [False, False]  # pyright: ignore[reportArgumentType]
        assert backends.fused_backend(there, 16) is reference  # pyright: ignore[reportArgumentType]
    backends.say_once.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [
        "triton is not installed, so plain torch runs on the GPU instead, many times slower"
    ]


@pytest.mark.parametrize(
    ("inputs", "rows", "scales", "reason"),
    [
        (torch.ones(2, 10, dtype=torch.float16), 3, torch.ones(3, 3), "the inputs are float16"),
        (torch.ones(0, 10), 3, torch.ones(3, 3), "the inputs are float32 of shape"),
        (torch.ones(2, 9), 3, torch.ones(3, 3), "take 7 bytes, but 8 are there"),
        (torch.ones(2, 10), 0, torch.ones(1, 3), "0 rows"),
        (torch.ones(2, 10), 3, torch.ones(2, 3), "do not fit 3 rows of 3 blocks"),
        (torch.ones(2, 10), 3, torch.full((3, 3), torch.nan), "NaN or infinite"),
    ],
)
def test_products_refuse_what_does_not_fit(inputs: torch.Tensor, rows: int, scales: torch.Tensor, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        kernels.linear(inputs, torch.zeros(8, dtype=torch.uint8), scales, CODEBOOK, 4, rows)
