"""How others load and take over what octavo writes: the transformers quantizer, generation, export."""

QUANT_METHOD = "octavo"
"""The `quant_method` of octavo's checkpoints in config.json."""

VERSION = 1
"""The checkpoint layout that this release writes and reads."""

ENTRIES = frozenset({"quant_method", "version", "tensors", "activations"})
"""What `quantization_config` may hold. A reader refuses the rest, which may change what the model computes."""
