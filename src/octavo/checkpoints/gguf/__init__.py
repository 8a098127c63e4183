"""GGUF files: a bounds-checked header, own dequantization, and the Hugging Face view of what is inside."""
