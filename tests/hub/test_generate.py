"""Streaming gives the text that transformers gives, draws by its own generator, and can be left early."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from lossless import LOSSLESS
from packed_directory import make, pack
from transformers import AutoModelForCausalLM, AutoTokenizer

from octavo.base.errors import FormatError, ModelError
from octavo.formats.format import Format
from octavo.hub.generate import generate
from octavo.hub.text_model import load_text_model
from octavo.models.cache import QuantizedCache
from octavo.models.cache_format import CacheFormat


@pytest.fixture(scope="module")
def loaded(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    import shutil

    folder = tmp_path_factory.mktemp("generate")
    shutil.copytree(tiny_llama, folder / "dense")
    pack(folder / "dense", folder / "packed", Format.parse("int@4 b32 absmax:fp16"))
    return AutoModelForCausalLM.from_pretrained(folder / "packed"), AutoTokenizer.from_pretrained(tiny_llama)


def test_greedy_text_is_that_of_transformers(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    tokens = tokenizer("folded", return_tensors="pt")
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(**tokens, **options)[0, tokens.input_ids.shape[1] :]
    pieces = list(generate(loaded, "folded", max_new_tokens=12))
    assert "".join(pieces) == tokenizer.decode(expected, skip_special_tokens=True)
    assert all(pieces)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chat": True},
        {"temperature": 0.9, "seed": 4},
        {"temperature": 1.1, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2},
    ],
    ids=str,
)
def test_the_decoder_says_what_transformers_says(
    options: dict[str, Any], tiny_llama: Path, loaded: tuple[Any, Any]
) -> None:
    own = load_text_model(tiny_llama)
    assert own.runner == "octavo's decoder"
    theirs = AutoModelForCausalLM.from_pretrained(tiny_llama), loaded[1]
    expected = "".join(generate(theirs, "folded", max_new_tokens=30, **options))
    assert "".join(generate(own, "folded", max_new_tokens=30, **options)) == expected
    assert "".join(generate(tiny_llama, "folded", max_new_tokens=30, **options)) == expected


def test_what_the_decoder_does_not_know_runs_on_transformers(tmp_path: Path, tiny_llama: Path) -> None:
    make("gpt2", tmp_path, "int@4 b32 absmax:fp16")
    for path in tiny_llama.glob("tokenizer*"):
        (tmp_path / "dense" / path.name).write_bytes(path.read_bytes())
    assert "'gpt2'" in load_text_model(tmp_path / "dense").runner
    assert "cache" in load_text_model(tiny_llama, packed_cache=True).runner
    assert "float32" in load_text_model(tiny_llama, torch.bfloat16).runner


def test_a_stop_string_ends_the_answer(tiny_llama: Path) -> None:
    text = "".join(generate(tiny_llama, "folded", max_new_tokens=30))
    assert text.count(text[4:7])
    stopped = "".join(generate(tiny_llama, "folded", max_new_tokens=30, stop=[text[4:7]]))
    assert stopped == text[: text.index(text[4:7])]


def test_a_prompt_longer_than_the_context_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(ModelError, match="context 256"):
        generate(tiny_llama, "folded " * 300)


def test_a_seed_decides_the_draw_and_nothing_else_does(loaded: tuple[Any, Any]) -> None:
    def draw(seed: int) -> str:
        return "".join(generate(loaded, "a sheet", max_new_tokens=10, temperature=1.0, seed=seed))

    state = torch.random.get_rng_state()
    first = draw(1)
    torch.manual_seed(99)
    assert draw(1) == first
    torch.random.set_rng_state(state)
    assert draw(2) != first
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_chat_template_is_used(loaded: tuple[Any, Any]) -> None:
    text = "user: fold<|end|>\nassistant: "
    plain = "".join(generate(loaded, text, max_new_tokens=6))
    assert "".join(generate(loaded, "fold", max_new_tokens=6, chat=True)) == plain


def test_leaving_early_stops_the_work(loaded: tuple[Any, Any]) -> None:
    stream = generate(loaded, "folded", max_new_tokens=200, temperature=1.0)
    next(stream)
    stream.close()
    assert not any(thread.name == "octavo-generate" for thread in threading.enumerate())


def test_failures_reach_the_reader(loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(loaded[0], "forward", fail)
    with pytest.raises(RuntimeError, match="on fire"):
        list(generate(loaded, "folded"))


def test_senseless_requests_are_refused(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(ModelError, match="temperature"):
        generate(loaded, "a", temperature=-1)
    with pytest.raises(ModelError, match="no tokenizer"):
        generate((loaded[0], None), "a")


def test_old_keys_and_values_can_be_kept_packed(loaded: tuple[Any, Any]) -> None:
    model = loaded[0]
    dense = "".join(generate(loaded, "folded", max_new_tokens=60))
    format = CacheFormat.parse(LOSSLESS)
    cache = QuantizedCache(model.config, CacheFormat(format.keys, format.values, group=8))
    assert "".join(generate(loaded, "folded", max_new_tokens=60, cache=cache)) == dense
    assert cache.memory().packed_tokens >= 48
    assert "".join(generate(loaded, "folded", max_new_tokens=6, cache="int@4 b32")) == "".join(
        generate(loaded, "folded", max_new_tokens=6)
    )
    with pytest.raises(ModelError, match="holds tokens of another text"):
        generate(loaded, "folded", cache=cache)
    with pytest.raises(FormatError, match="fixed width"):
        generate(loaded, "folded", cache="int@4 ans")
