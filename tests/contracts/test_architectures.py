"""Every architecture loads packed, computes what its dequantized twin computes, and saves what it read.

The contract, for any transformers model: quantize its matrices, load the directory through `from_pretrained`, and
1. its outputs equal those of the dense model that holds the dequantized weights;
2. no matrix is held dense;
3. `save_pretrained` writes the very tensors and the very list of formats it read;
4. loading without the head works, and generation gives the dense twin's tokens.

All sides are odd on purpose, so that no block divides them. A new architecture is one row.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import transformers
from packed_directory import ARCHITECTURES, FORMATS, VOCABULARY, make, quantization, same_bytes
from safetensors.torch import load_file

from octavo.hub.packed import PackedTensor, packed_tensors

# Torch's grouped product refuses experts of odd sides.
EAGER = {"experts_implementation": "eager"}


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_packed_model_is_its_dequantized_twin(name: str, tmp_path: Path, tokens: torch.Tensor) -> None:
    auto_class, dense, packed = make(name, tmp_path, FORMATS[len(name) % len(FORMATS)])
    twin = auto_class.from_pretrained(dense, **EAGER)
    model, info = auto_class.from_pretrained(packed, output_loading_info=True)
    assert not any(info.values())
    assert all(p.ndim < 2 for p in model.parameters())
    with torch.no_grad():
        assert torch.allclose(model(tokens).logits, twin(tokens).logits, atol=1e-5)

    model.save_pretrained(tmp_path / "again")
    assert same_bytes(packed, tmp_path / "again")
    assert quantization(packed) == quantization(tmp_path / "again")

    if auto_class is transformers.AutoModelForCausalLM:
        options = {"max_new_tokens": 4, "do_sample": False}
        assert torch.equal(model.generate(tokens, **options), twin.generate(tokens, **options))


@pytest.mark.parametrize("name", ["llama", "bert", "qwen3-moe"])
def test_the_base_model_of_a_packed_model(name: str, tmp_path: Path, tokens: torch.Tensor) -> None:
    _, dense, packed = make(name, tmp_path, FORMATS[0])
    kind = {"add_pooling_layer": False} if name == "bert" else {}
    model = transformers.AutoModel.from_pretrained(packed, **kind)
    twin = transformers.AutoModel.from_pretrained(dense, **kind, **EAGER)
    model.save_pretrained(tmp_path / "base")
    again = transformers.AutoModel.from_pretrained(tmp_path / "base", **kind)
    with torch.no_grad():
        expected = twin(tokens).last_hidden_state
        assert torch.allclose(model(tokens).last_hidden_state, expected, atol=1e-5)
        assert torch.allclose(again(tokens).last_hidden_state, expected, atol=1e-5)
    assert packed_tensors(again).keys() == packed_tensors(model).keys()


@pytest.mark.parametrize("name", ["llama, tied", "qwen3-moe"])
@pytest.mark.parametrize("keep", ["embed_tokens", "experts.3", "up_proj"])
def test_some_tensors_may_stay_dense(name: str, keep: str, tmp_path: Path, tokens: torch.Tensor) -> None:
    auto_class, dense, packed = make(name, tmp_path, FORMATS[0], keep)
    twin, model = auto_class.from_pretrained(dense, **EAGER), auto_class.from_pretrained(packed)
    with torch.no_grad():
        assert torch.allclose(model(tokens).logits, twin(tokens).logits, atol=1e-5)
    model.save_pretrained(tmp_path / "again")
    assert same_bytes(packed, tmp_path / "again")


def test_tied_weights_are_held_and_stored_once(tmp_path: Path, tokens: torch.Tensor) -> None:
    auto_class, _, packed = make("llama, tied", tmp_path, FORMATS[0])
    model = auto_class.from_pretrained(packed)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not any("lm_head" in key for key in model.state_dict())
    model.tie_weights()
    copied = copy.deepcopy(model)
    assert copied.lm_head.weight is copied.model.embed_tokens.weight
    with torch.no_grad():
        assert torch.equal(copied(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_compute_dtype_leaves_the_stored_bits_alone(
    dtype: torch.dtype, tmp_path: Path, tokens: torch.Tensor
) -> None:
    auto_class, _, packed = make("llama", tmp_path, FORMATS[0])
    model = auto_class.from_pretrained(packed, dtype=dtype)
    moved = auto_class.from_pretrained(packed, dtype=torch.float32).to(dtype)
    with torch.no_grad():
        assert model(tokens).logits.dtype == moved(tokens).logits.dtype == dtype
        # Not equal: moving a model also rounds its rotary frequencies.
        assert torch.allclose(model(tokens).logits, moved(tokens).logits, atol=0.02)
    stored = load_file(packed / "model.safetensors")
    for key, value in moved.state_dict().items():
        if key.endswith((".codes", ".scales")):
            assert value.dtype == stored[key].dtype
            assert torch.equal(value.view(torch.uint8), stored[key].view(torch.uint8))


def test_the_state_is_plain_tensors(tmp_path: Path) -> None:
    auto_class, _, packed = make("llama", tmp_path, FORMATS[0])
    model = auto_class.from_pretrained(packed)
    assert all(type(value) is torch.Tensor for value in model.state_dict().values())
    assert isinstance(model.model.layers[0].mlp.up_proj.weight, PackedTensor)
    assert isinstance(model.model.layers[0].mlp.up_proj, torch.nn.Linear)
    assert model.dtype == torch.float32


@pytest.mark.parametrize("text", ["grid@4.0 tensor rms:fp32 ans", "cbrt-t(df=5)@3 b64 absmax:bf16 ans"])
def test_coded_tensors_are_decoded_once_and_saved_as_they_were(text: str, tmp_path: Path, tokens: torch.Tensor) -> None:
    auto_class, dense, packed = make("llama, tied", tmp_path, text)
    twin, model = auto_class.from_pretrained(dense), auto_class.from_pretrained(packed)
    with torch.no_grad():
        assert torch.allclose(model(tokens).logits, twin(tokens).logits, atol=1e-5)
        assert torch.allclose(copy.deepcopy(model)(tokens).logits, twin(tokens).logits, atol=1e-5)
    model.to(torch.bfloat16).save_pretrained(tmp_path / "again")
    assert set(load_file(packed / "model.safetensors")) == set(load_file(tmp_path / "again" / "model.safetensors"))
    stored, again = (load_file(p / "model.safetensors") for p in (packed, tmp_path / "again"))
    assert all(torch.equal(stored[key], again[key]) for key in stored if key.endswith(".coded"))
    assert quantization(packed) == quantization(tmp_path / "again")
