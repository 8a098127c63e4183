"""Maps that make weights and activations easier to quantize: Hadamard, rotations, learned affine maps; their folding.

A block of 32 numbers that share one power of two is ruined by a single outlier. An invertible map in front of the
quantizer, whose inverse is folded into the weights behind it, spreads outliers or trades them away.
"""
