"""Lattices: fixed ones with exact nearest points (Z, D4, E8), and lattices that are learned for groups of columns."""
