"""Networks that train with quantized weights: when that starts, what stays, and that a run goes on exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from octavo.base.errors import ConfigurationError, FormatError
from octavo.formats.frozen import FrozenCodebook, Settling
from octavo.layers.fake_quantized import FakeQuantizedLinear
from octavo.models.decoder_config import DecoderConfig
from octavo.models.transformer import Transformer
from octavo.training import TokenWindows, TrainingConfig, next_token_loss, train
from octavo.training.precision import FlipRate, StartQuantizing

CONFIG = DecoderConfig.plain(31, 64, 2, 4, context=16)
RUN = TrainingConfig(steps=8).changed(
    {"schedule.name": "constant", "schedule.warmup": 2, "optimizer.learning_rate": 0.01, "checkpointing.every": 4}
)
SOURCE = TokenWindows(np.random.default_rng(0).integers(31, size=2000).astype(np.uint16), 16, 4)
ALL = {"*": "lloyd@1 b64 absmean:bf16"}


def network(seed: int = 0) -> Transformer:
    return Transformer(CONFIG, torch.Generator().manual_seed(seed), linear=FakeQuantizedLinear)


def layers(model: Transformer) -> dict[str, FakeQuantizedLinear]:
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, FakeQuantizedLinear)}


class Watch:
    """Remembers the codebooks at each step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor | None]] = []

    def __call__(self, step: int, model: Transformer, optimizer: object) -> None:
        found = {name: layer.frozen for name, layer in layers(model).items()}
        self.seen.append({name: f.codebook if isinstance(f, FrozenCodebook) else None for name, f in found.items()})


def test_nothing_is_quantized_before_its_step_and_codebooks_stay_after() -> None:
    model, watch = network(), Watch()
    plain, quantized = network(), model
    train(plain, next_token_loss, SOURCE, RUN.changed({"steps": 3}))
    hook = StartQuantizing(model, ALL, 3)
    done = train(quantized, next_token_loss, SOURCE, RUN, hooks=[hook, watch])
    assert torch.isfinite(done.losses).all()
    assert all(codebook is None for seen in watch.seen[:3] for codebook in seen.values())
    start = watch.seen[3]
    assert all(codebook is not None for codebook in start.values())
    assert all(seen[name] is codebook for seen in watch.seen[4:] for name, codebook in start.items())
    for layer in layers(model).values():
        blocks = layer.values.detach().unflatten(1, (-1, 64)).flatten(0, 1)
        assert all(len(block.unique()) <= 2 for block in blocks)
        assert not torch.equal(layer.values, layer.weight)


def test_steps_before_the_start_are_those_of_any_other_network() -> None:
    plain, model = network(), network()
    before = train(plain, next_token_loss, SOURCE, RUN.changed({"steps": 5}))
    hook = StartQuantizing(model, ALL, 4)
    after = train(model, next_token_loss, SOURCE, RUN.changed({"steps": 5}), hooks=[hook])
    assert torch.equal(before.losses[:4], after.losses[:4])
    assert before.losses[4] != after.losses[4]


def test_a_layer_takes_the_first_pattern_that_matches() -> None:
    model = network()
    StartQuantizing(model, {"*.q_proj": "int@4", "*.self_attn.*": "lloyd@2 b64 search:bf16", "*.0.mlp.*": "nvfp4"}, 0)(
        0, model, torch.optim.SGD(model.parameters())
    )
    found = {name: str(layer.frozen.format) for name, layer in layers(model).items() if layer.frozen is not None}
    assert found["model.layers.0.self_attn.q_proj"] == "int@4 b64 absmax:bf16"
    assert found["model.layers.1.self_attn.v_proj"] == "lloyd@2 b64 search:bf16"
    assert found["model.layers.0.mlp.up_proj"] == "nvfp4"
    assert "model.layers.1.mlp.up_proj" not in found
    assert isinstance(layers(model)["model.layers.1.self_attn.v_proj"].frozen, Settling)


def test_codebooks_are_estimated_anew_if_asked() -> None:
    model, watch = network(), Watch()
    train(model, next_token_loss, SOURCE, RUN, hooks=[StartQuantizing(model, ALL, 1, every=3), watch])
    books = [seen["model.layers.0.mlp.up_proj"] for seen in watch.seen]
    assert books[1] is books[3]
    assert books[4] is books[6]
    assert books[1] is not books[4]
    assert books[6] is not books[7]


def test_the_same_weights_give_the_same_codebooks() -> None:
    """What processes that share a run rely on."""
    first, second = network(), network()
    for model in (first, second):
        StartQuantizing(model, ALL, 0)(0, model, torch.optim.SGD(model.parameters()))
    for one, other in zip(layers(first).values(), layers(second).values(), strict=True):
        assert isinstance(one.frozen, FrozenCodebook)
        assert isinstance(other.frozen, FrozenCodebook)
        assert torch.equal(one.frozen.codebook, other.frozen.codebook)


@pytest.mark.parametrize("first", [2, 6])
def test_a_run_that_was_interrupted_goes_on_to_the_same_bits(tmp_path: Path, first: int) -> None:
    formats = {"*mlp*": "lloyd@2 b64 absmean:bf16", "*": "nvfp4"}

    def run(steps: int, place: Path | None) -> Transformer:
        model = network()
        config = RUN.changed({"checkpointing.every": first})
        hooks = [StartQuantizing(model, formats, 3)]
        if steps < RUN.steps:

            def stop(step: int, model: object, optimizer: object) -> None:
                if step == steps:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                train(model, next_token_loss, SOURCE, config, directory=place, hooks=[*hooks, stop])
        else:
            train(model, next_token_loss, SOURCE, config, directory=place, hooks=hooks)
        return model

    whole = run(RUN.steps, None)
    run(first + 1, tmp_path / "run")
    resumed = run(RUN.steps, tmp_path / "run")
    for one, other in zip(layers(whole).values(), layers(resumed).values(), strict=True):
        assert torch.equal(one.weight, other.weight)
        assert torch.equal(one.values, other.values)


def test_a_finished_run_that_is_opened_again_is_quantized(tmp_path: Path) -> None:
    models = [network(), network()]
    for model in models:
        train(model, next_token_loss, SOURCE, RUN, directory=tmp_path / "run", hooks=[StartQuantizing(model, ALL, 3)])
    for one, other in zip(*(layers(model).values() for model in models), strict=True):
        assert torch.equal(one.values, other.values)


def test_codebooks_can_be_weighted_by_gradients() -> None:
    books = []
    for by_gradient in (False, True):
        model, watch = network(), Watch()
        train(
            model, next_token_loss, SOURCE, RUN, hooks=[StartQuantizing(model, ALL, 5, by_gradient=by_gradient), watch]
        )
        books.append(watch.seen[5]["model.layers.0.mlp.up_proj"])
    assert not torch.equal(books[0], books[1])
    torch.testing.assert_close(books[0], books[1], rtol=0.2, atol=0.2)
    model = network()
    with pytest.raises(ConfigurationError, match="second moment"):
        train(model, next_token_loss, SOURCE, RUN, hooks=[StartQuantizing(model, ALL, 0, by_gradient=True)])


def test_flips_are_the_indices_that_a_step_changes() -> None:
    model, flips = network(), FlipRate(every=2)
    layer = layers(model)["model.layers.0.mlp.up_proj"]
    seen: list[Tensor] = []

    def watch(step: int, model: object, optimizer: object) -> None:
        if isinstance(layer.frozen, FrozenCodebook):
            seen.append(layer.frozen.codes(layer.weight))

    only = {"model.layers.0.mlp.up_proj": "lloyd@2 b64 absmean:bf16"}
    train(model, next_token_loss, SOURCE, RUN, hooks=[StartQuantizing(model, only, 1), flips, watch])
    assert [step for step, _ in flips.rates] == [2, 4, 6]
    for step, rate in flips.rates:
        assert rate == float((seen[step - 1] != seen[step]).double().mean())
        assert 0 < rate < 0.5


def test_what_makes_no_sense_is_refused() -> None:
    model = network()
    with pytest.raises(ConfigurationError, match="no layer"):
        StartQuantizing(model, {"*.nothing": "int@4"}, 0)
    with pytest.raises(ConfigurationError, match="no layer"):
        StartQuantizing(Transformer(CONFIG), ALL, 0)
    with pytest.raises(ConfigurationError, match="start at step"):
        StartQuantizing(model, ALL, 0, every=0)
    with pytest.raises(FormatError):
        StartQuantizing(model, {"*": "nonsense@4"}, 0)
    with pytest.raises(ConfigurationError, match="two steps"):
        FlipRate(every=1)
