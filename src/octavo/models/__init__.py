"""Loading and running networks; and what may be done to one without changing what it computes."""

from octavo.models.loading import context_length, load_language_model

__all__ = ["context_length", "load_language_model"]
