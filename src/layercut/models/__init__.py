"""Load models: a hub id, a folder, a GGUF file or a bundled package becomes a model and its tokenizer."""
