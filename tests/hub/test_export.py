"""Exported models hold the dequantized values: rounded in bfloat16 directories, bit for bit in GGUF files."""

import json
from pathlib import Path

import pytest
import tiny
import torch
from packed_directory import pack
from safetensors.torch import load_file

from octavo.base.errors import OctavoError, OutputError
from octavo.checkpoints import open_checkpoint
from octavo.formats.format import Format
from octavo.formats.tensor import QuantizedTensor
from octavo.hub.export import export
from octavo.hub.gguf_blocks import IQ4_NL, to_blocks

Q4_0, Q8_0 = "int@4 b32 search:fp16", "int@8 b32 absmax:fp16"


def save_llama(directory: Path, **changes: object) -> None:
    """A random Llama whose sides GGUF's blocks divide, with a tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sides = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    others = {"num_key_value_heads": 2, "max_position_embeddings": 128, "initializer_range": 0.2}
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = LlamaConfig(**{"vocab_size": tiny.VOCABULARY, **sides, **others, **special, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(directory)
    tiny.save_tokenizer(directory)


def packed_llama(folder: Path, text: str, **changes: object) -> tuple[Path, Path]:
    save_llama(folder / "dense", **changes)
    pack(folder / "dense", folder / "packed", Format.parse(text))
    return folder / "dense", folder / "packed"


def test_a_bf16_directory_is_the_rounded_model(tmp_path: Path) -> None:
    import transformers

    dense, packed = packed_llama(tmp_path, "cbrt-t(df=5)@3 b64 absmax:bf16", tie_word_embeddings=True)
    assert export(packed, tmp_path / "out") == tmp_path / "out"
    values, written = load_file(dense / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert values.keys() == written.keys()
    assert all(torch.equal(written[name], values[name].bfloat16()) for name in values)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("a")
    with pytest.raises(OutputError, match="exists"):
        export(packed, tmp_path / "out")


@pytest.mark.parametrize("text", [Q4_0, Q8_0, "int@3 b32 absmax:fp16"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_file_holds_the_same_values(text: str, tied: bool, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    dense, packed = packed_llama(tmp_path, text, tie_word_embeddings=tied)
    file = export(packed, tmp_path / "model.gguf", "gguf")
    values, read = load_file(dense / "model.safetensors"), open_checkpoint(file)
    assert set(read.names) == values.keys()
    for name in read.names:
        assert torch.equal(read.read(name).float(), values[name].float()), name
    config = json.loads((dense / "config.json").read_text())
    for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "rms_norm_eps"):
        assert read.config[key] == config[key]
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("text", [Q4_0, Q8_0])
def test_blocks_are_what_the_gguf_package_reads(text: str, generator: torch.Generator) -> None:
    gguf = pytest.importorskip("gguf")
    quantized = Format.parse(text).quantize(torch.randn(5, 96, generator=generator))
    order = torch.tensor([4, 0, 1, 3, 2])
    blocks = to_blocks("w", quantized, order)
    values = gguf.quants.dequantize(blocks.data, gguf.GGMLQuantizationType[blocks.type])
    assert blocks.type == ("Q4_0" if text == Q4_0 else "Q8_0")
    assert torch.equal(torch.from_numpy(values), quantized.dequantize()[order])


def test_a_codebook_of_the_gguf_table_is_iq4_nl(generator: torch.Generator) -> None:
    gguf = pytest.importorskip("gguf")
    fitted = Format.parse("lloyd@4 b32 absmax:fp16").quantize(torch.randn(5, 64, generator=generator))
    parts = {**fitted.parts, "codebook": torch.tensor(IQ4_NL, dtype=torch.float32)}
    quantized = QuantizedTensor(fitted.format, fitted.shape, parts)
    blocks = to_blocks("w", quantized)
    assert blocks.type == "IQ4_NL"
    values = gguf.quants.dequantize(blocks.data, gguf.GGMLQuantizationType.IQ4_NL)
    assert torch.equal(torch.from_numpy(values), quantized.dequantize())


@pytest.mark.parametrize(
    ("text", "side", "reason"),
    [
        ("cbrt-t(df=5)@3 b32 absmax:fp16", 64, "no GGUF type has its codebook"),
        ("int@4 b64 absmax:fp16", 64, "one float16 for 32"),
        ("int@4 b32 absmax:bf16", 64, "one float16 for 32"),
        ("int@4 b32 absmax:fp16", 65, "do not divide"),
        ("int@4 b32 absmax:fp16 outliers=0.1", 64, "outliers"),
    ],
)
def test_what_gguf_has_not_is_refused_by_name(text: str, side: int, reason: str, generator: torch.Generator) -> None:
    quantized = Format.parse(text).quantize(torch.randn(4, side, generator=generator))
    with pytest.raises(OctavoError, match=reason) as caught:
        to_blocks("model.some.weight", quantized)
    assert "model.some.weight" in str(caught.value)
    assert str(quantized.format) in str(caught.value)
    assert "int@4 b32" in str(caught.value)


def test_targets_and_names_are_checked(tmp_path: Path) -> None:
    with pytest.raises(OctavoError, match="onnx"):
        export(tmp_path, tmp_path / "out", "onnx")
    pytest.importorskip("gguf")
    _, packed = packed_llama(tmp_path, "nf4")
    with pytest.raises(OutputError, match=r"\.gguf"):
        export(packed, tmp_path / "out", "gguf")
    with pytest.raises(OctavoError, match="nf4"):
        export(packed, tmp_path / "out.gguf", "gguf")
    assert {path.name for path in tmp_path.iterdir()} == {"dense", "packed"}


def test_llama_cpp_loads_the_file_and_agrees(tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="install the extra octavo[peers] for llama.cpp")
    pytest.importorskip("gguf")
    import transformers

    _, packed = packed_llama(tmp_path, Q8_0, tie_word_embeddings=True)
    file = export(packed, tmp_path / "model.gguf", "gguf")
    peer = llama_cpp.Llama(str(file), n_ctx=64, n_threads=1, verbose=False, logits_all=True)
    text = "folded twice a quarto, folded three times"
    tokenizer = transformers.AutoTokenizer.from_pretrained(packed)
    tokens = tokenizer(text).input_ids
    assert peer.tokenize(text.encode(), add_bos=False) == tokens
    peer.eval(tokens)
    theirs = torch.from_numpy(peer.scores[: len(tokens)]).float()
    with torch.no_grad():
        ours = transformers.AutoModelForCausalLM.from_pretrained(packed)(torch.tensor([tokens])).logits[0]
    # llama.cpp rounds activations to eight bits.
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=-1).min() > 0.99
    assert peer(text, max_tokens=4)["choices"][0]["text"] is not None
