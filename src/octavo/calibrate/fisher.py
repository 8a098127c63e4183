"""The Fisher information of every weight matrix, factored into its rows and its columns.

The KL divergence between a model and its neighbor with weights w + δ is, to second order, ½ Σ F_ij δ_ij² (off-diagonal
terms left out), where F_ij is the mean over tokens of the squared gradient of that token's loss, the label being drawn
from the model's own prediction. A token's gradient of a matrix y = W x is the outer product of g, the gradient at y,
and x, so its square is the outer product of the squares. The mean of these over tokens is no product; octavo keeps the
product that is closest to it in I-divergence, which has the same totals by row and by column:

    F_ij ≈ row_i · column_j ∝ (Σ_t g_ti² ‖x_t‖²) · (Σ_t x_tj² ‖g_t‖²).

The mean of x_tj² by itself would give a channel that is huge on one token and idle on all others (a "massive
activation") the weight of that token everywhere, though its gradient there is next to nothing.

No weight gradient is ever made: parameters require none, the embeddings' outputs do, and one backward pass a sequence
(with the gradient of the loss at the logits written down in closed form) yields every g. An embedding's look-up is the
product of a one-hot vector with its matrix; a tied embedding has two uses, and their totals add.

Sources: "Optimal Formats for Weight Quantisation" (arXiv 2505.12988), section on Fisher; WaterSIC (arXiv 2603.04956).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from octavo.base.errors import ModelError
from octavo.base.progress import SILENT, Progress
from octavo.calibrate.naming import checkpoint_factors
from octavo.calibrate.recomputing import recomputed_layers
from octavo.calibrate.running import Sample, Samples, lengths, predicts_next, run, tokens_of
from octavo.calibrate.streamed import StreamedWeight
from octavo.calibrate.sums import Sums
from octavo.calibrate.uses import WeightUses
from octavo.formats.importance import Importance

POSITIONS = 32
"""Rows of logits worked on at once in float64."""

Labels = Literal["sampled", "empirical"]


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a calibration text said about a model's matrices.

    Attributes:
        importance: the separable Fisher by tensor name, as the checkpoint names it; a matrix that no token reached, or
            from which no logit depends, is absent, and its reader falls back on a prior.
        tokens: by the same names, how many tokens reached the matrix (of a tensor that holds several experts: the
            expert with the fewest); 0 for tensors that are absent from `importance`.
        total: tokens in all.
        labels: "sampled" for the true Fisher, "empirical" for the text's own next tokens.
        strengths: by the names of the model's parameters, the squared gradient of each token at a matrix's outputs;
            only of matrices that every token (of an encoder's input: every position) goes through once.
    """

    importance: Mapping[str, Importance]
    tokens: Mapping[str, int]
    total: int
    labels: Labels
    strengths: Mapping[str, Float[Tensor, " _"]]

    @property
    def unreached(self) -> tuple[str, ...]:
        """Matrices that no token reached."""
        return tuple(name for name, count in self.tokens.items() if count == 0)


def fisher(
    model: nn.Module,
    sequences: Samples,
    labels: Labels = "sampled",
    *,
    unseen: float = 0.0,
    generator: torch.Generator,
    progress: Progress = SILENT,
) -> Calibration:
    """The separable Fisher of every two- or three-dimensional weight of a language model, in nats per token.

    Memory beyond the model's: the activations and two times the logits of one sequence. Where weights are streamed,
    memory is short: of the activations only one layer's and what goes into each layer are kept, and each layer is run a
    second time on the way back.

    Args:
        model: a transformers model whose output has `logits`; it is as before afterwards.
        sequences: what to calibrate on: token ids, or the inputs of another model by name.
        labels: "sampled" draws each label from the model's prediction; "empirical" takes the next token of the text
            (a masked language model: the token itself).
        unseen: occurrences that every token of the vocabulary is credited with beyond those in the text.
        generator: draws the labels.

    Raises:
        ModelError: the model has no logits, they are not finite, or the sequences are empty.
    """
    if not sum(len(tokens_of(sample)) for sample in sequences):
        raise ModelError("there is nothing to calibrate on", "give a calibration text")
    weights = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim in (2, 3) and parameter.is_floating_point() and parameter.numel()
    }
    sums = {name: Sums(weight.shape) for name, weight in weights.items()}
    total, vocabulary = 0, 0
    passed: list[frozenset[int]] = []
    watched = WeightUses(weights, lambda use: sums[use.name].add(use))
    streamed = any(isinstance(weight, StreamedWeight) for weight in weights.values())
    with _undisturbed(model), recomputed_layers(model, watched) if streamed else contextlib.nullcontext():
        for sample in progress.track(sequences, "calibrating", total=len(sequences)):
            row = tokens_of(sample)
            # The last token of a text has no next one to serve as its label.
            positions = len(row) - (labels == "empirical" and predicts_next(model))
            with torch.enable_grad(), watched:
                made = run(model, _differentiable(sample))
            output = made.logits[0]
            passed.append(lengths(made))
            total += positions
            gradient = _logit_gradient(output, row, positions, labels, generator)
            if not bool(gradient.isfinite().all()):
                raise ModelError("the model's logits are not finite", "load it in float32 or bfloat16")
            vocabulary = output.shape[-1]
            output.backward(gradient)
            del made, output, gradient
    factors = {name: sums[name].factors(total) for name in weights}
    if unseen:
        factors = {
            name: sums[name].with_unseen(found, total, unseen, is_vocabulary=len(weights[name]) == vocabulary)
            for name, found in factors.items()
        }
    found = checkpoint_factors(model, factors)
    return Calibration(
        importance={
            name: Importance(factors.row[0].float(), factors.column[0].float())
            for name, factors in found.items()
            if bool(factors.row.any())
        },
        tokens={name: int(factors.tokens.min()) for name, factors in found.items()},
        total=total,
        labels=labels,
        strengths={
            name: torch.cat(found.strengths) for name, found in sums.items() if _all_once(found.strengths, passed)
        },
    )


def _differentiable(sample: Sample) -> Sample:
    """The sample, gradients wanted at what is no index: there a path may begin that no look-up feeds."""
    if isinstance(sample, Tensor):
        return sample
    return {
        name: tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor
        for name, tensor in sample.items()
    }


def _all_once(strengths: Sequence[Tensor], passed: Sequence[frozenset[int]]) -> bool:
    """Whether a matrix was used once a sample, by a whole sequence."""
    return len(strengths) == len(passed) and all(
        len(found) in lengths for found, lengths in zip(strengths, passed, strict=True)
    )


@torch.no_grad()
def _logit_gradient(
    output: Float[Tensor, "length vocabulary"],
    row: Int[Tensor, " length"],
    positions: int,
    labels: Labels,
    generator: torch.Generator,
) -> Float[Tensor, "length vocabulary"]:
    """Gradient of the summed negative log-likelihood: the prediction minus the label's one-hot vector."""
    gradient = torch.zeros_like(output)
    targets = row[len(row) - positions :].to(output.device)
    uniform = torch.rand(len(row), 1, generator=generator, dtype=torch.float64, device=generator.device)
    for start in range(0, positions, POSITIONS):
        part = slice(start, min(start + POSITIONS, positions))
        probability = torch.softmax(output[part].float(), dim=-1)
        if labels == "sampled":
            cumulative = probability.cumsum(-1, dtype=torch.float64)
            drawn = uniform[part].to(output.device) * cumulative[:, -1:]
            label = torch.searchsorted(cumulative, drawn, right=True).clamp_max(output.shape[-1] - 1)
        else:
            label = targets[part, None]
        gradient[part] = probability.scatter_add_(1, label, probability.new_full(label.shape, -1.0))
    return gradient


@contextlib.contextmanager
def _undisturbed(model: Any) -> Iterator[None]:
    """Within, no parameter requires a gradient, dropout is off, and experts are looped over one by one."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = model.training
    experts = getattr(getattr(model, "config", None), "_experts_implementation", None)
    settable = experts is not None and hasattr(model, "set_experts_implementation")
    for parameter in trained:
        parameter.requires_grad_(False)
    model.eval()
    if settable:
        # Only this implementation multiplies by one expert's matrix at a time, which is what is watched.
        model.set_experts_implementation("eager")
    try:
        yield
    finally:
        if settable:
            model.set_experts_implementation(experts)
        model.train(training)
        for parameter in trained:
            parameter.requires_grad_(True)
