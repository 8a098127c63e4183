"""Speech to transcribe: sentences of the four kinds of benchmarks/texts.py, spoken by espeak-ng.

espeak-ng (GPL-3+) and the libraries that it loads are Debian packages, fetched and unpacked into the cache of
benchmarks/texts.py, not installed. It is a formant synthesizer, whose speech no model was trained on: of 32 sentences,
Whisper tiny.en gets three words in four right. A sentence is ASCII words and commas, of one passage, and none is taken
twice.

    python benchmarks/speech.py           how many sentences there are, and a WAV file of one in the cache
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from scipy.io import wavfile
from scipy.signal import resample_poly
from torch import Tensor

from octavo.base.errors import OctavoError
from texts import KINDS, cache_folder, package_file, texts

RATE = 16_000
"""Samples a second that Whisper hears."""

TOGETHER = 3
"""Sentences calibrated on at once: about as many as go into the half minute that Whisper hears, however much of it is
silent. Evaluated are single ones."""

SENTENCE = re.compile(r"(?<![^\s])[A-Z][A-Za-z' ,;]{80,240}\.(?=\s|$)")

PACKAGES = ("espeak-ng", "libespeak-ng1", "espeak-ng-data", "libsonic0")
AUDIO_PACKAGES = (
    *("libpcaudio0", "libasound2", "libpulse0", "libasyncns0", "libsndfile1", "libflac12", "libogg0", "libvorbis0a"),
    *("libvorbisenc2", "libopus0", "libmp3lame0", "libmpg123-0", "libdbus-1-3", "libx11-6", "libxcb1", "libxau6"),
    *("libxdmcp6", "libbsd0", "libmd0"),
)
"""Its audio output, which is not used here, but without which it does not start."""


@cache
def sentences(kind: str) -> tuple[str, ...]:
    """The sentences of a kind of text, in its order.

    Raises:
        OctavoError: its package cannot be fetched.
    """
    found = (match for passage in texts(kind) for match in SENTENCE.findall(re.sub(r"\s+", " ", passage)))
    return tuple(dict.fromkeys(found))


def chosen_sentences(calibration: int, evaluation: int, seed: int = 1) -> tuple[list[str], list[str]]:
    """(Calibration texts of `TOGETHER` sentences, evaluation sentences) in equal parts of the four kinds, none in both.

    The evaluation sentences do not depend on how many calibration texts are asked for.

    Args:
        calibration: how many texts to calibrate on, a multiple of 4.
        evaluation: how many to evaluate on, a multiple of 4.
        seed: of the choice.

    Raises:
        OctavoError: the numbers are no multiples of 4, or the texts cannot be had or have too few.
    """
    if calibration % len(KINDS) or evaluation % len(KINDS):
        raise OctavoError("sentences are taken in equal parts of four kinds", "ask for a multiple of 4")
    take, hold = TOGETHER * calibration // len(KINDS), evaluation // len(KINDS)
    calibrated, evaluated = [], []
    for kind in KINDS:
        known = sentences(kind)
        if len(known) < take + hold:
            raise OctavoError(f"{kind} has only {len(known)} sentences to speak", "ask for fewer")
        order = torch.randperm(len(known), generator=torch.Generator().manual_seed(seed)).tolist()
        evaluated += [known[place] for place in order[:hold]]
        said = [known[place] for place in order[hold : hold + take]]
        calibrated += [" ".join(said[start : start + TOGETHER]) for start in range(0, take, TOGETHER)]
    return calibrated, evaluated


def speak(text: str, path: Path) -> None:
    """Write a text as 22,050 Hz speech to a WAV file.

    Raises:
        OctavoError: espeak-ng cannot be fetched, or does not run.
    """
    program = package_file("usr/bin/espeak-ng", *PACKAGES, *AUDIO_PACKAGES)
    root = cache_folder()
    folders = [*root.glob("usr/lib/*-linux-*"), *root.glob("usr/lib/*-linux-*/pulseaudio"), *root.glob("lib/*-linux-*")]
    data = next(root.glob("usr/lib/*/espeak-ng-data")).parent
    command = [str(program), f"--path={data}", "-v", "en-us", "-w", str(path), text]
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, folders))}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    if done.returncode or not path.exists():
        raise OctavoError(f"espeak-ng does not run ({done.stderr.decode().strip()})", f"try {' '.join(command[:-1])}")


def features(text: str) -> Float32[Tensor, "1 mels frames"]:
    """A spoken text as Whisper reads it: its log-mel spectrogram, cut at 30 seconds or silence added up to them."""
    from transformers import WhisperFeatureExtractor

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        speak(text, path)
        rate, samples = wavfile.read(path)
    sound = resample_poly(samples.astype(np.float32) / 32768, RATE, rate).astype(np.float32)
    return WhisperFeatureExtractor()(sound, sampling_rate=RATE, return_tensors="pt").input_features


if __name__ == "__main__":
    try:
        for kind in KINDS:
            print(f"{kind:12}{len(sentences(kind)):>7,} sentences, such as: {sentences(kind)[0]}")
        example = cache_folder() / "speech.wav"
        speak(sentences(KINDS[0])[0], example)
        print(example)
    except OctavoError as error:
        sys.exit(str(error))
