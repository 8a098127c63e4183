"""The four kinds of text that quality is measured on: docstrings, a policy manual, the Bible, and fortunes.

Docstrings come from Python's own library; the others are Debian packages, fetched with `apt-get download` and unpacked
(not installed) into a cache: debian-policy (GPL-2+), bible-kjv with bible-kjv-text (a text in the public domain, kept
in a form that only its own program reads, which is run once), and fortunes with fortunes-min (BSD). Every kind gives
the same number of sequences to calibration and to evaluation. All are windows of one cut of the text into windows that
do not overlap, so no evaluated token has been calibrated on; but both are of the same books, which flatters whatever is
calibrated, ours and the peers' alike.

    python benchmarks/texts.py            fetch what is missing and say how much there is
"""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from octavo.base.errors import OctavoError
from octavo.calibrate.text import heldout_text

KINDS = ("docstrings", "policy", "bible", "fortunes")
FORTUNES = ("literature", "science", "wisdom", "people", "definitions", "law", "politics", "work")
VERSE = re.compile(r"(?m)^\w+:\d+ ")
"""The book, chapter and verse before each line of the Bible."""


def cache_folder() -> Path:
    """Where fetched packages are kept: OCTAVO_TEXTS, or a folder in the user's cache."""
    if folder := os.environ.get("OCTAVO_TEXTS"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "octavo" / "texts"


@cache
def text(kind: str) -> str:
    """The whole text of a kind.

    Raises:
        OctavoError: its package cannot be fetched.
    """
    if kind == "docstrings":
        return heldout_text()
    if kind == "policy":
        path = package_file("usr/share/doc/debian-policy/policy.txt.gz", "debian-policy")
        return gzip.decompress(path.read_bytes()).decode()
    if kind == "bible":
        return _bible()
    if kind == "fortunes":
        # Two packages; either may hold a file.
        folder = package_file("usr/share/games/fortunes/literature", "fortunes", "fortunes-min").parent
        parts = [(folder / name).read_text(encoding="utf-8", errors="replace") for name in FORTUNES]
        return "\n".join(part.replace("\n%\n", "\n\n") for part in parts)
    raise OctavoError(f"there is no text of kind {kind!r}", f"choose one of {', '.join(KINDS)}")


def texts(kind: str) -> list[str]:
    """The text of a kind in passages: paragraphs, verses or sayings."""
    separator = "\n" if kind == "bible" else "\n\n"
    return [passage.strip() for passage in text(kind).split(separator) if passage.strip()]


def sequences(
    tokenizer: Any, calibration: int = 16, evaluation: int = 8, length: int = 512, seed: int = 1
) -> tuple[Int[Tensor, "calibration length"], Int[Tensor, "evaluation length"]]:
    """(Calibration, evaluation) sequences in equal parts of the four kinds, no two of which overlap.

    The evaluation sequences do not depend on how many calibration sequences are asked for.

    Args:
        tokenizer: a transformers tokenizer.
        calibration: how many sequences to calibrate on, a multiple of 4.
        evaluation: how many to evaluate on, a multiple of 4.
        length: tokens in each.
        seed: of the choice.

    Raises:
        OctavoError: the numbers are no multiples of 4, the texts too short or not to be had.
    """
    if calibration % len(KINDS) or evaluation % len(KINDS):
        raise OctavoError("sequences are taken in equal parts of four kinds", "ask for a multiple of 4")
    take, hold = calibration // len(KINDS), evaluation // len(KINDS)
    calibrated, evaluated = [], []
    for kind in KINDS:
        tokens = torch.tensor(tokenizer(text(kind), add_special_tokens=False, verbose=False).input_ids)
        windows = tokens[: len(tokens) // length * length].view(-1, length)
        if len(windows) < take + hold:
            raise OctavoError(f"{kind} has only {len(windows)} sequences of {length} tokens", "ask for fewer")
        order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))
        evaluated.append(windows[order[:hold]])
        calibrated.append(windows[order[hold : hold + take]])
    return torch.cat(calibrated), torch.cat(evaluated)


def _bible() -> str:
    """The King James Version, a verse a line; decoded once by its program."""
    decoded = cache_folder() / "bible.txt"
    if not decoded.exists():
        data = package_file("usr/lib/bible.data", "bible-kjv-text")
        program = package_file("usr/bin/bible", "bible-kjv")
        command = [str(program), "-p", str(data.parent), "-f", "gen1:1-rev22:21"]
        found = subprocess.run(command, capture_output=True, check=False)
        if found.returncode or found.stdout.count(b"\n") != 31_102:
            raise OctavoError("the program `bible` did not print its 31,102 verses", f"try {' '.join(command)}")
        decoded.with_suffix(".new").write_bytes(found.stdout)
        decoded.with_suffix(".new").replace(decoded)
    return VERSE.sub("", decoded.read_text(encoding="utf-8"))


def package_file(name: str, *packages: str) -> Path:
    """A file of unpacked Debian packages, which are fetched if it is not there."""
    folder = cache_folder()
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            # apt drops its rights for downloading; it must be able to write here.
            Path(scratch).chmod(0o777)
            try:
                subprocess.run(["apt-get", "download", *packages], cwd=scratch, check=True, capture_output=True)
                for archive in Path(scratch).glob("*.deb"):
                    subprocess.run(["dpkg-deb", "-x", archive, folder], check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                raise OctavoError(
                    f"cannot fetch the Debian packages {', '.join(packages)} ({error})",
                    f"run `apt-get update` on a Debian system, or put them unpacked into {folder}",
                ) from error
    return path


if __name__ == "__main__":
    for kind in KINDS:
        try:
            print(f"{kind:12}{len(text(kind)):>10,} characters in {len(texts(kind)):>6,} passages")
        except OctavoError as error:
            sys.exit(f"{kind}: {error}")
