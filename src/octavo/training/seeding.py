"""Randomness as a function of what it is for: a run has no state of random numbers that could be lost."""

from __future__ import annotations

import hashlib

import torch


def seed_of(seed: int, purpose: str, index: int = 0) -> int:
    """A seed that differs with the run's seed, with the purpose, and from one index to the next."""
    digest = hashlib.blake2b(f"{seed}\0{purpose}\0{index}".encode(), digest_size=8).digest()
    # torch takes seeds of 64 bits; negative ones mean something else to it.
    return int.from_bytes(digest, "little") >> 1


def generator_of(seed: int, purpose: str, index: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator with that seed."""
    return torch.Generator(device).manual_seed(seed_of(seed, purpose, index))
