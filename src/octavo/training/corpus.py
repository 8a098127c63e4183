"""Text to train on: files, folders, or what every installation of octavo has, as documents that are read in pieces."""

from __future__ import annotations

import ast
import codecs
import hashlib
import importlib.metadata
import importlib.util
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from octavo.base.errors import ModelError
from octavo.base.progress import SILENT, Progress

PACKAGES = ("matplotlib", "networkx", "numpy", "scipy", "sympy", "torch", "transformers")
"""Whose docstrings are the default corpus: what octavo needs anyway (BSD, Apache and MIT licenses)."""

SHORTEST = 100
"""Characters below which a docstring says too little."""

SUFFIXES = (".c", ".csv", ".html", ".json", ".jsonl", ".md", ".py", ".rst", ".tex", ".toml", ".tsv", ".txt", ".xml")
"""What is read of a folder."""

PIECE = 1 << 16
"""Bytes of a piece, at the least; it goes on to the end of its line."""

MANY = 100
"""Documents from which on whole ones are held out, and not the end of each."""


@dataclass(frozen=True)
class Document:
    """Some text.

    Attributes:
        name: that distinguishes it.
        size: bytes.
        pieces: the text of a range of its bytes; ranges [0, b) and [b, size) have every line between them.
    """

    name: str
    size: int
    pieces: Callable[[int, int], Iterator[str]]


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order.

    Attributes:
        identity: differs where the documents do.
        documents: lists them.
    """

    identity: str
    documents: Callable[[Progress], Sequence[Document]]


Part = tuple[tuple[Document, int, int], ...]
"""Ranges of bytes of documents."""


def default_corpus() -> Corpus:
    """The docstrings of the packages that octavo is made with, one document a module, no docstring twice.

    They are read with `ast` from the sources, so nothing is imported or run. Other versions are another corpus.

    Raises:
        ModelError: a package is not installed.
    """
    try:
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError(
            f"the default corpus is read from {error.name}, which is not installed", "pip install 'octavo[train]'"
        ) from error
    return Corpus(f"docstrings of {versions}", _docstrings)


def files_corpus(paths: Sequence[str | Path]) -> Corpus:
    """Text files, and those in folders, sorted; a file is a document.

    Raises:
        ModelError: a path is missing or cannot be read, or a folder has no text.
    """
    files: list[tuple[str, Path]] = []
    for given in paths:
        path = Path(given).expanduser()
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
            if not inside:
                raise ModelError(f"{path} has no text", f"give a folder with files named *{', *'.join(SUFFIXES)}")
            files += [(str(file.relative_to(path)), file) for file in inside]
        else:
            files.append((path.name, path))
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(f"\0{name}\0".encode())
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise ModelError(f"cannot read the text {path} ({error.strerror})", "give a readable text file") from error
    documents = tuple(Document(name, path.stat().st_size, _reader(path)) for name, path in files)
    return Corpus(f"files {digest.hexdigest()}", lambda progress: documents)


def split(documents: Sequence[Document], held_out: float) -> tuple[Part, Part]:
    """What is trained on, and the share that is not: whole documents, chosen by their names' hashes, or of few
    documents the end of each."""
    if len(documents) < MANY:
        cuts = [(document, math.ceil(document.size * (1 - held_out))) for document in documents]
        return (
            tuple((document, 0, cut) for document, cut in cuts),
            tuple((document, cut, document.size) for document, cut in cuts if cut < document.size),
        )
    by_hash = sorted(documents, key=lambda document: hashlib.sha256(document.name.encode()).digest())
    kept = {document.name for document in by_hash[: math.ceil(held_out * len(documents))]}
    whole = [(document, 0, document.size) for document in documents]
    return tuple(each for each in whole if each[0].name not in kept), tuple(
        each for each in whole if each[0].name in kept
    )


def _reader(path: Path) -> Callable[[int, int], Iterator[str]]:
    def pieces(begin: int, end: int) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            with path.open("rb") as file:
                if begin:
                    # The line that a range begins within belongs to the range before.
                    file.seek(begin - 1)
                    file.readline()
                while (place := file.tell()) < end:
                    data = file.read(min(PIECE, end - place))
                    data += b"" if data.endswith(b"\n") else file.readline(PIECE)
                    if b"\0" in data:
                        raise ModelError(f"{path} is not text (byte {place + data.index(0)} is zero)", "leave it out")
                    yield decoder.decode(data, final=file.tell() >= end)
        except UnicodeDecodeError as error:
            raise ModelError(f"{path} is not UTF-8 text ({error.reason})", "convert it to UTF-8 first") from error
        except OSError as error:
            raise ModelError(f"cannot read the text {path} ({error.strerror})", "give a readable text file") from error

    return pieces


def _docstrings(progress: Progress = SILENT) -> tuple[Document, ...]:
    files: list[tuple[str, Path]] = []
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        if found is None or not found.submodule_search_locations:
            raise ModelError(f"{package} has no source files here", "give a text of your own as data.text")
        root = Path(found.submodule_search_locations[0])
        files += [(f"{package}/{file.relative_to(root)}", file) for file in sorted(root.rglob("*.py"))]
    seen: set[bytes] = set()
    documents = []
    for name, path in progress.track(files, "Reading docstrings"):
        texts = []
        for text in _of_module(path):
            digest = hashlib.sha256(text.encode(errors="replace")).digest()
            if len(text) >= SHORTEST and digest not in seen:
                seen.add(digest)
                texts.append(text)
        if texts:
            documents.append(_in_memory(name, "\n\n".join(texts)))
    return tuple(documents)


def _of_module(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # Templates and tests of parsers.
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def _in_memory(name: str, text: str) -> Document:
    data = text.encode(errors="replace")

    def pieces(begin: int, end: int) -> Iterator[str]:
        yield data[begin:end].decode(errors="replace")

    return Document(name, len(data), pieces)
