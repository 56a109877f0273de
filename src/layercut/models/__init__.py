"""Models in: from a hub id, a folder, a GGUF file or a bundled package to a model and its tokenizer."""
