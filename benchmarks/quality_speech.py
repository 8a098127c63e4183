"""The table of benchmarks/quality.py for a second architecture: Whisper tiny.en, an encoder-decoder model for speech.

Its weights are float16 as they were trained, unquantized (benchmarks/whisper.py). All linear layers of encoder and
decoder are quantized, 16.5 of 37.8 million weights; the tied embedding and head, the convolutions and the positions are
kept. KL is of the original to the quantized model, nats a token of the decoder over the full vocabulary, on 32 spoken
sentences (benchmarks/speech.py), the decoder reading the transcript that the original itself makes, greedily, of each;
the prompt's own tokens are not judged. ± is the standard error over sentences. Word errors are those of greedy
transcripts against the original's. Calibration, ours and the peers', hears other sentences of the same texts, three at
a time, 32 times.

Bits count everything stored for the quantized weights. Bytes are those of the safetensors file of the whole model; for
peers, which write none here, implied: their bits for the linear layers, and the rest of the tensors as they are.

    python benchmarks/quality_speech.py              every section; about a quarter of an hour on two cores
    python benchmarks/quality_speech.py --section peers
    python benchmarks/quality_speech.py --only "fast, 4.0"
    python benchmarks/quality_speech.py --table      print the table again

Sections: free (calibration-free), balanced, peers. Results are kept in benchmarks/results/quality_speech.json and
measured again only where they are missing; sentences, transcripts and calibration in the cache of benchmarks/texts.py.
The first balanced row takes the time of calibrating, where that is not in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from keeping import Result, kept
from linears import Linears, Row, Stored
from octavo.base.progress import SILENT
from octavo.calibrate.running import logits
from octavo.compress.plan import BudgetOf
from octavo.compress.rounding.layers import with_conditional_importance
from octavo.compress.sensitivity import Sensitivity, measure
from octavo.measure.divergence import compare, estimate
from octavo.models import load_language_model
from peers import PEERS
from rows import benchmark
from speech import chosen_sentences
from texts import cache_folder
from transcripts import Heard, encoded, heard, transcribed, word_errors, words
from whisper import whisper_folder

RESULTS = Path(__file__).parent / "results" / "quality_speech.json"
LINEARS = ["*_proj.weight", "*.fc1.weight", "*.fc2.weight"]
VECTORS = ["*norm.weight", "*.bias"]
SECTIONS = ("free", "balanced", "peers")


class Bench:
    """The original, what it hears, and its logits; a model whose weights are replaced row by row."""

    def __init__(self, calibration: int, evaluation: int) -> None:
        self.source = whisper_folder()
        self.model, self.tokenizer = load_language_model(self.source)
        calibrated, evaluated = chosen_sentences(calibration, evaluation)
        self.calibration, self.evaluation = heard(self.model, calibrated), heard(self.model, evaluated)
        self.linears = Linears(self.source, self.model, LINEARS, VECTORS, head="proj_out")
        self.spoken = torch.cat([sentence.features for sentence in self.evaluation])
        states = encoded(self.model, self.spoken)
        self.reference = [self.logits(*pair) for pair in zip(self.evaluation, states, strict=True)]

    @torch.inference_mode()
    def logits(self, sentence: Heard, states: Tensor) -> Tensor:
        """Logits of a transcript, from the prompt's last token on."""
        output = self.model(encoder_outputs=(states[None],), decoder_input_ids=sentence.prompted, use_cache=False)
        return output.logits[0, -len(sentence.labels) :]

    def words(self, tokens: Tensor) -> list[str]:
        return words(self.tokenizer.decode(tokens))

    @cached_property
    def sensitivity(self) -> Sensitivity:
        """Our calibration, error feedback's included, kept beside the texts."""
        self.linears.restore()
        samples = [sentence.sample for sentence in self.calibration]

        def calibrated() -> Sensitivity:
            found = measure(self.model, samples, torch.Generator().manual_seed(0))
            return with_conditional_importance(self.source, found, "cpu", SILENT)

        return kept(cache_folder() / f"measured-speech-{len(samples)}.pt", calibrated)

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """llama.cpp's importance matrix."""
        return self.linears.mean_squared_inputs(
            lambda: [logits(self.model, sentence.sample) for sentence in self.calibration]
        )

    def result(self, row: Row) -> Result:
        """Bits, bytes, KL with its standard error, word errors, squared error and seconds of one row."""
        return self.linears.result(row, self.judged)

    def judged(self) -> Result:
        states = encoded(self.model, self.spoken)
        divergences = [
            compare(reference, self.logits(sentence, state), sentence.labels)
            for sentence, state, reference in zip(self.evaluation, states, self.reference, strict=True)
        ]
        forward = estimate(torch.stack([divergence.forward.mean() for divergence in divergences]))
        expected = [self.words(sentence.transcript) for sentence in self.evaluation]
        found = [self.words(tokens) for tokens in transcribed(self.model, states)]
        return {
            "kl": forward.mean,
            "kl_error": forward.error,
            "word_errors": word_errors(expected, found),
        }

    def compressed(self, bits: float, effort: str, budget_of: BudgetOf) -> Stored:
        known = Sensitivity({}) if effort == "fast" else self.sensitivity
        return self.linears.compressed(bits, effort, budget_of, known)

    def peer(self, name: str) -> Stored:
        return self.linears.peer(name, self.inputs if PEERS[name].calibrated else None)

    def rows(self, section: str) -> Iterator[tuple[str, Row]]:
        """Names and rows of a section."""
        if section in ("free", "balanced"):
            effort = "fast" if section == "free" else section
            for bits in (4.0, 3.0, 2.5, 2.0):
                yield f"octavo {effort}, {bits} bits stored", partial(self.compressed, bits, effort, "file")
            for bits in (4.0, 3.0):
                yield f"octavo {effort}, {bits} bits resident", partial(self.compressed, bits, effort, "memory")
        if section == "peers":
            for name, peer in PEERS.items():
                if peer.available:
                    yield name, partial(self.peer, name)


if __name__ == "__main__":
    benchmark(__doc__, RESULTS, SECTIONS, (32, 32), Bench)
