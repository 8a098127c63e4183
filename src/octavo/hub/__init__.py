"""How others load and take over what octavo writes: the transformers quantizer, generation, export."""
