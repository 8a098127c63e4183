"""What networks are made of: plain functions and frozen weights, without a module's state."""
