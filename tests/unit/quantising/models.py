"""Tiny GGUF models whose rows hold blocks of 256, and texts for them."""

import random
from pathlib import Path

import pytest

from layercut.models.loading import LoadedModel, load_model
from layercut.quantising.statistics import Text
from tests.support.tiny_gguf import TINY, build, write

WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_attention_heads": 8, "num_key_value_heads": 8}


def tiny_file(path: Path, name: str = "llama", **more: object) -> Path:
    """A random model in float32."""
    pytest.importorskip("llama_cpp_py_sync", reason="llama-cpp-py-sync is not installed (layercut[gguf])")
    return write(build(TINY[name], **more), name, TINY[name], path / f"{name}.gguf")


def load_tiny(file: Path) -> LoadedModel:
    return load_model(str(file), dtype="float32")


def random_texts(number: int, length: int = 24) -> list[Text]:
    draw = random.Random(0)
    return [Text(f"text-{place}", tuple(draw.choices(range(250), k=length)), length // 3) for place in range(number)]
