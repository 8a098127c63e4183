"""What a network was trained with is what is stored, and what others compute from the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from octavo.formats import Format, QuantizedTensor
from octavo.formats.frozen import FrozenCodebook
from octavo.hub.stored import open_stored
from octavo.layers.fake_quantized import FakeQuantizedLinear
from octavo.models.decoder_config import DecoderConfig
from octavo.models.decoder_loading import load_decoder
from octavo.models.quiet import quiet
from octavo.models.transformer import Transformer
from octavo.training.precision import StartQuantizing, export_quantized

FORMATS = (
    {"*": "lloyd@1 b64 absmean:bf16"},
    {"*": "lloyd@2 b64 absmean:bf16"},
    {"*mlp*": "lloyd@4 b64 absmax:bf16", "*": "int(levels=3) b64 absmean:bf16"},
    {"*": "int@1 b64 absmean:bf16"},
    {"*mlp*": "nvfp4", "*.q_proj": "trellis(states=256)@2 channel rms:u8", "*.o_proj": "lloyd@2 b64 search:s8"},
)


def trained(formats: dict[str, str], tied: bool, generator: torch.Generator) -> Transformer:
    """A network whose weights have moved on since its codebooks were estimated."""
    config = DecoderConfig.plain(97, 64, 2, 4, shared_heads=2, inner=96, context=64, tied=tied)
    model = Transformer(config, generator, linear=FakeQuantizedLinear)
    move(model, 0.2, generator)
    StartQuantizing(model, formats, 0)(0, model, torch.optim.SGD(model.parameters()))
    move(model, 0.05, generator)
    return model


@torch.no_grad()
def move(model: Transformer, size: float, generator: torch.Generator) -> None:
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=size)


@pytest.mark.parametrize("formats", FORMATS, ids=lambda formats: next(reversed(formats.values())))
@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_training(
    formats: dict[str, str], tied: bool, tmp_path: Path, generator: torch.Generator
) -> None:
    model = trained(formats, tied, generator)
    out = tmp_path / "out"
    export_quantized(model, None, out, dtype=torch.float32)
    tokens = torch.randint(97, (2, 24), generator=generator)
    with torch.no_grad():
        expected = model(tokens)
    with quiet():
        theirs = AutoModelForCausalLM.from_pretrained(out)
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, expected, rtol=1e-5, atol=1e-5)
    decoder = load_decoder(open_stored(out))
    assert decoder.nbytes < sum(4 * each.numel() for each in model.parameters())
    torch.testing.assert_close(decoder.logits(tokens), expected, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("formats", FORMATS, ids=lambda formats: next(reversed(formats.values())))
def test_codes_and_scales_are_those_of_training(
    formats: dict[str, str], tmp_path: Path, generator: torch.Generator
) -> None:
    model = trained(formats, True, generator)
    export_quantized(model, None, tmp_path / "out", dtype=torch.bfloat16)
    entries = load_file(tmp_path / "out" / "model.safetensors")
    stored = open_stored(tmp_path / "out")
    found = 0
    for name, layer in model.named_modules():
        if not isinstance(layer, FakeQuantizedLinear) or layer.frozen is None:
            continue
        found += 1
        quantized = stored.quantized(f"{name}.weight")
        assert isinstance(quantized, QuantizedTensor)
        assert torch.equal(quantized.dequantize(), layer.values)
        if isinstance(layer.frozen, FrozenCodebook):
            assert torch.equal(entries.get(f"{name}.weight.codebook", layer.frozen.codebook), layer.frozen.codebook)
            statistic = layer.weight.detach().unflatten(1, (-1, 32 if layer.in_features % 64 else 64)).abs()
            if str(layer.frozen.format) == "lloyd@1 b64 absmean:bf16" and layer.in_features == 64:
                expected: Tensor = statistic.mean(-1).to(torch.bfloat16)
                assert torch.equal(entries[f"{name}.weight.scales"], expected)
    assert found >= 4
    norm = entries["model.norm.weight"]
    assert norm.dtype == torch.bfloat16
    assert torch.equal(norm, model.model.norm.weight.detach().bfloat16())


def test_the_same_format_object_rounds_before_in_and_after_training(generator: torch.Generator) -> None:
    """Compressing, the forward pass and the file agree bit for bit where the weights are the same."""
    weights = torch.randn(32, 128, generator=generator)
    format = Format.parse("lloyd@2 b64 absmean:bf16")
    layer = FakeQuantizedLinear(128, 32, bias=False)
    layer.load_state_dict({"weight": weights})
    model = torch.nn.ModuleDict({"layer": layer})
    StartQuantizing(model, {"layer": str(format)}, 0)(0, model, torch.optim.SGD(model.parameters()))
    compressed = format.quantize(weights)
    assert layer.frozen is not None
    exported = layer.frozen.quantize(layer.weight)
    assert layer.frozen.format == format
    assert torch.equal(layer.values, compressed.dequantize())
    assert exported.parts.keys() == compressed.parts.keys()
    assert all(torch.equal(exported.parts[name], part) for name, part in compressed.parts.items())
