"""What Whisper tiny.en has heard and transcribed, kept in the cache, and how transcripts are compared."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int
from torch import Tensor

from octavo.models.quiet import quiet
from speech import features
from texts import cache_folder
from whisper import END, NO_TIMESTAMPS, START

BATCH = 16
"""Texts encoded, or transcribed, at once."""

LONGEST = 128
"""Tokens at which a transcript that does not end is cut."""


@dataclass(frozen=True, eq=False)
class Heard:
    """A spoken text.

    Attributes:
        text: what was spoken.
        features: its log-mel spectrogram.
        transcript: the tokens that the original model makes of it, greedily.
    """

    text: str
    features: Float32[Tensor, "1 mels frames"]
    transcript: Int[Tensor, " tokens"]

    @property
    def prompted(self) -> Int[Tensor, "1 prompted"]:
        """The decoder's input: the prompt and the transcript."""
        return torch.cat([torch.tensor([START, NO_TIMESTAMPS]), self.transcript])[None]

    @property
    def labels(self) -> Int[Tensor, " labels"]:
        """What is to be predicted from the prompt's last token on: the transcript and its end."""
        return torch.cat([self.transcript, torch.tensor([END])])

    @property
    def sample(self) -> dict[str, Tensor]:
        """What the model is run on to calibrate it."""
        return {"input_features": self.features, "decoder_input_ids": self.prompted}


def heard(model: Any, texts: Sequence[str]) -> list[Heard]:
    """Have the original model hear texts; those of an earlier run are read from the cache."""
    path = cache_folder() / "heard.pt"
    known: dict[str, tuple[Tensor, Tensor]] = torch.load(path) if path.exists() else {}
    missing = [text for text in texts if text not in known]
    for start in range(0, len(missing), BATCH):
        part = missing[start : start + BATCH]
        spoken = torch.cat([features(text) for text in part])
        for text, sound, tokens in zip(part, spoken, transcribed(model, encoded(model, spoken)), strict=True):
            known[text] = sound[None].clone(), tokens
        torch.save(known, path)
    return [Heard(text, *known[text]) for text in texts]


@torch.inference_mode()
def encoded(
    model: Any, spoken: Float32[Tensor, "sentences mels frames"]
) -> Float32[Tensor, "sentences positions width"]:
    """What the encoder makes of spoken texts."""
    return torch.cat([model.get_encoder()(part).last_hidden_state for part in spoken.split(BATCH)])


@torch.inference_mode()
def transcribed(model: Any, states: Float32[Tensor, "heard positions width"]) -> list[Int[Tensor, " tokens"]]:
    """Greedy transcripts of encoded texts, tokens that are no speech suppressed as Whisper does."""
    from transformers.modeling_outputs import BaseModelOutput

    found = []
    for part in states.split(BATCH):
        with quiet():
            made = model.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=part),
                decoder_input_ids=torch.tensor([[START, NO_TIMESTAMPS]]).expand(len(part), -1),
                max_new_tokens=LONGEST,
                num_beams=1,
                do_sample=False,
            )
        found += [tokens[tokens < END].clone() for tokens in made]
    return found


def words(text: str) -> list[str]:
    """The words of a text, without case and punctuation."""
    return re.findall(r"[a-z0-9']+", text.lower())


def word_errors(expected: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> float:
    """Word error rate: words to insert, to leave out or to replace, over the words expected."""
    wrong = sum(edits(right, other) for right, other in zip(expected, found, strict=True))
    return wrong / sum(map(len, expected))


def edits(expected: Sequence[str], found: Sequence[str]) -> int:
    """The Levenshtein distance of two sequences of words."""
    places = np.arange(len(found) + 1)
    distance = places
    for word in expected:
        replaced = distance[:-1] + np.array([word != other for other in found], dtype=int)
        kept = np.concatenate([distance[:1] + 1, np.minimum(replaced, distance[1:] + 1)])
        # An insertion costs one more than the place before: a running minimum along the row.
        distance = np.minimum.accumulate(kept - places) + places
    return int(distance[-1])
