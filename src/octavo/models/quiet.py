"""transformers without its progress bars, notes and warnings: octavo reports progress itself, and errors as errors."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within, transformers and the back ends it tries to import show nothing; afterwards all is as it was."""
    # The first import tells of every optional back end that does not load.
    others = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [logger.level for logger in others]
    for logger in others:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from transformers.utils import logging as transformers_logging

            verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
            transformers_logging.set_verbosity(logging.CRITICAL)
            transformers_logging.disable_progress_bar()
            try:
                yield
            finally:
                transformers_logging.set_verbosity(verbosity)
                if bars:
                    transformers_logging.enable_progress_bar()
    finally:
        for logger, level in zip(others, levels, strict=True):
            logger.setLevel(level)
