"""Some rows of a packed matrix are what the same rows of the whole are, wherever their bits begin."""

import copy

import pytest
import torch

from octavo.formats import grid_stream
from octavo.formats.format import Format
from octavo.formats.rows import pieces, select_rows, slice_rows
from octavo.formats.tensor import QuantizedTensor
from octavo.hub.packed import PackedTensor

FORMATS = (
    "int@4 b32 absmax:fp16",
    "int@3 b16 absmax:fp32",
    "cbrt-t(df=5,levels=11) b64 absmax:bf16",
    "cbrt-normal(levels=3) channel rms:e4m3",
    "nf4 tensor absmax:fp32",
    "int@5 b8 absmax:e8m0",
    "mxfp4",
    "nvfp4",
    "columns(int@8=4,int@3) channel absmax:bf16",
    "trellis(states=256)@3 channel rms:u8",
    "trellis(states=4096)@1 b8 absmax:fp32",
    "columns(trellis(states=1024)@5=4,trellis(states=256)@2) tensor rms:bf16",
    "lattice-e8@3 b8 absmax:e4m3",
    "lattice-d4@2 tensor rms:fp32",
    "int@3 b32 absmax:bf16 outliers=0.05",
    "trellis(states=256)@3 channel rms:u8 outliers=0.05",
    "columns(int@8=4,int@3) channel absmax:bf16 outliers=0.05",
)


@pytest.mark.parametrize("text", FORMATS)
@pytest.mark.parametrize("shape", [(40, 17), (37, 64), (1, 5), (23, 1)])
def test_rows_equal_those_of_the_whole(text: str, shape: tuple[int, int], generator: torch.Generator) -> None:
    quantized = Format.parse(text).quantize(torch.randn(shape, generator=generator))
    whole = quantized.dequantize()
    rows = shape[0]
    for index in (
        torch.arange(rows),
        torch.tensor([rows - 1]),
        torch.tensor([0, rows - 1, 0, rows // 2]),
        torch.randint(0, rows, (9,), generator=generator),
    ):
        assert torch.equal(select_rows(quantized, index), whole[index])


@pytest.mark.parametrize(
    "text",
    [
        "grid@3.0 tensor rms:fp32 ans",
        "grid(step=0.3) channel rms:fp32 ans",
        "nf4 b16 absmax:bf16 ans",
        "e2m1 b16 absmax:bf16",
        "columns(int@4=4,int(levels=3)) channel absmax:bf16",
        "cbrt-t(df=5,levels=11) b16 absmax:bf16 outliers=0.05",
    ],
)
def test_rows_of_the_resident_form(text: str, generator: torch.Generator) -> None:
    quantized = Format.parse(text).quantize(torch.randn(33, 17, generator=generator))
    packed, whole = as_weight(quantized), quantized.dequantize()
    assert torch.equal(packed.dense(), whole)
    # What is saved again is what was read.
    saved = packed.state_dict()
    assert saved.keys() == quantized.parts.keys()
    assert all(torch.equal(saved[name], part) for name, part in quantized.parts.items())
    packed.load_state_dict(saved)
    assert torch.equal(packed.dense(), whole)
    index = torch.tensor([32, 0, 0, 7])
    assert torch.equal(packed.rows(index), whole[index])
    assert torch.equal(packed.take(5, 21), whole[5:21])


@pytest.mark.parametrize("states", ["", ",states=8"])
@pytest.mark.parametrize("columns", [17, 64])
def test_rows_of_columns_of_unequal_width(columns: int, states: str, generator: torch.Generator) -> None:
    weights = torch.randn(33, columns, generator=generator)
    weights[:, 2:] *= 0.01
    weights[:, -3:] = 0
    weights[[4, 8, 9], 9] = 2
    packed = as_weight(Format.parse(f"grid(step=0.01{states}) tensor rms:fp32 ans").quantize(weights))
    parts = packed.resident().parts
    assert sum(name.startswith("codes_") for name in parts) > 2
    assert len(parts["far_row"])
    whole = packed.dense()
    for index in (torch.tensor([32, 0, 0, 7, 9, 8]), torch.tensor([1, 2]), torch.tensor([31]), torch.arange(33)):
        assert torch.equal(packed.rows(index), whole[index])
    for start, stop in ((5, 21), (9, 16), (32, 33), (0, 33)):
        assert torch.equal(packed.take(start, stop), whole[start:stop])


@pytest.mark.parametrize("text", FORMATS)
@pytest.mark.parametrize("shape", [(40, 17), (37, 64), (1, 5), (23, 1)])
def test_a_slice_of_rows_is_that_of_the_whole(text: str, shape: tuple[int, int], generator: torch.Generator) -> None:
    quantized = Format.parse(text).quantize(torch.randn(shape, generator=generator))
    whole, rows = quantized.dequantize(), shape[0]
    for start, stop in ((0, rows), (rows - 1, rows), (0, 1), (rows // 3, rows // 2 + 1)):
        assert torch.equal(slice_rows(quantized, start, stop), whole[start:stop])


CODED = (
    "grid(step=0.3) channel rms:fp32 ans",
    "grid(step=0.3,states=8) separable ans",
    "nf4 b16 absmax:bf16 ans",
    "cbrt-t(df=5,levels=11) tensor absmax:bf16 ans",
)


@pytest.mark.parametrize("text", [*CODED, "e2m1 b16 absmax:bf16", "int@3 b32 absmax:bf16 outliers=0.05"])
@pytest.mark.parametrize("threads", [1, 3])
def test_pieces_make_up_the_whole(
    text: str, threads: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several blocks of each kind, whose bounds lie inside rows; blocks of columns in several runs of rows.
    monkeypatch.setattr(grid_stream, "PIECE", 1 << 15)
    quantized = Format.parse(text).quantize(torch.randn(450, 700, generator=generator))
    whole, before = quantized.dequantize(), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for begin, end in ((0, 450), (449, 450), (0, 1), (120, 260)):
            found, times = torch.zeros(450, 700), torch.zeros(450, 700)
            for piece in pieces(quantized, begin, end):
                found[piece.rows, piece.columns] = piece.values
                times[piece.rows, piece.columns] += 1
            assert torch.equal(found[begin:end], whole[begin:end])
            assert bool((times[begin:end] == 1).all())
            assert int(times.max()) == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("text", CODED)
def test_rows_of_a_coded_tensor(text: str, generator: torch.Generator) -> None:
    quantized = Format.parse(text).quantize(torch.randn(450, 700, generator=generator))
    index = torch.tensor([0, 449, 3, 3, 187, 186])
    assert torch.equal(select_rows(quantized, index), quantized.dequantize()[index])


def as_weight(quantized: QuantizedTensor) -> PackedTensor:
    return PackedTensor("w", quantized, torch.float32, {})


def test_a_packed_tensor_is_taken_for_a_tensor(generator: torch.Generator) -> None:
    quantized = Format.parse("int@4 b32 absmax:fp16").quantize(torch.randn(6, 7, 10, generator=generator))
    packed, dense = as_weight(quantized), quantized.dequantize()
    assert (packed.shape, packed.dim(), packed.numel(), len(packed)) == (dense.shape, 3, 420, 6)
    assert (packed.dtype, packed.device, packed.requires_grad) == (torch.float32, dense.device, False)
    for key in (0, -1, torch.tensor(2), slice(1, 3), slice(4, 2), (1, 2), torch.tensor([0, 5]), None, ...):
        assert torch.equal(packed[key], dense[key])
    with pytest.raises(IndexError):
        packed[6]
    vector = torch.randn(10, generator=generator)
    assert torch.equal(packed @ vector, dense @ vector)
    assert torch.equal(torch.einsum("abc,c->ab", packed, vector), torch.einsum("abc,c->ab", dense, vector))
    assert torch.equal(2 * packed - 1, 2 * dense - 1)
    assert torch.equal(packed.transpose(-2, -1), dense.transpose(-2, -1))
    assert packed.to(torch.bfloat16).dtype == torch.bfloat16
    assert packed.dtype == torch.float32
    with pytest.raises(AttributeError):
        packed.no_such_thing  # noqa: B018


def test_layers_use_it_without_knowing(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    import octavo.hub.tensor_like as tensor_like

    quantized = Format.parse("cbrt-t(df=5)@3 b64 absmax:bf16").quantize(torch.randn(50, 13, generator=generator))
    dense = quantized.dequantize()
    linear, embedding = torch.nn.Linear(13, 50), torch.nn.Embedding(50, 13, padding_idx=3)
    inputs, few = torch.randn(70, 13, generator=generator), torch.randn(2, 2, 13, generator=generator)
    tokens = torch.tensor([[1, 3, 49], [1, 0, 7]])
    expected = torch.nn.functional.linear(inputs, dense, linear.bias), dense[tokens]
    for layer in (linear, embedding):
        del layer.weight
        layer.add_module("weight", as_weight(quantized))
    assert torch.equal(linear(inputs), expected[0])
    assert torch.allclose(linear(few), torch.nn.functional.linear(few, dense, linear.bias), atol=1e-5)
    assert torch.equal(embedding(tokens), expected[1])
    with pytest.raises(IndexError, match="0 to 49"):
        embedding(torch.tensor([50]))
    # A weight too large to be dense at once goes in slabs of rows.
    monkeypatch.setattr(tensor_like, "SLAB", 100)
    monkeypatch.setattr(PackedTensor, "dense", lambda self: pytest.fail("the whole weight was made dense"))
    assert torch.allclose(linear(inputs), expected[0], atol=1e-6)
    assert torch.allclose(linear(few), torch.nn.functional.linear(few, dense, linear.bias), atol=1e-5)
    assert {*linear.state_dict()} == {"bias", "weight.codes", "weight.codebook", "weight.scales"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("text", ["int@4 b32 absmax:bf16", "grid@3.0 tensor rms:fp32 ans", "lattice-e8@2"])
def test_few_inputs_keep_their_dtype_and_follow_the_weight(
    text: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    format = Format.parse(text)
    weights = torch.randn(2, 40, 48, generator=generator)
    layer = torch.nn.Linear(48, 40, dtype=dtype)
    del layer.weight
    layer.add_module("weight", as_weight(format.quantize(weights[0])))
    layer.weight.dtype = dtype
    inputs = torch.randn(3, 5, 48, generator=generator).to(dtype)
    for stored in (layer.weight.stored(), format.quantize(weights[1])):
        layer.weight._load_from_state_dict(dict(stored.parts), "", {}, False, [], [], [])
        for weight in (layer, copy.deepcopy(layer)):
            result = weight(inputs)
            expected = torch.nn.functional.linear(inputs.float(), stored.dequantize(), layer.bias.float())
            assert result.dtype == dtype
            assert torch.allclose(result.float(), expected, rtol=2e-2, atol=5e-2)
    assert torch.nn.functional.linear(inputs.requires_grad_(), layer.weight).requires_grad
