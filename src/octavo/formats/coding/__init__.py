"""Codes to bytes and back: dense packing, entropy coding and exact accounting."""
