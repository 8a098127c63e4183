"""Figures: how far predictions move, how much of a signal survives, what weights look like, what theory allows."""
