"""``quantise`` on the real model: the file is as small as asked, near the original, and answers in llama.cpp."""

import pytest

import layercut
from tests.support.commands import MODEL

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("bundled")
def test_a_file_of_three_quarters_answers_like_the_original(tmp_path):
    for package in ("llama_cpp_py_sync", "xllamacpp"):
        pytest.importorskip(package, reason=f"{package} is not installed (layercut[gguf])")
    done = layercut.quantise(MODEL, tasks=["arithmetic"], size="75MB", out=tmp_path / "small.gguf", progress=False)
    own, plain = done.result.files
    assert done.result.num_bytes <= 75_000_000 < plain.num_bytes
    assert own.measured.value < plain.measured.value / 2 and own.forecast < plain.forecast
    assert own.forecast / 3 < own.measured.value < 3 * own.forecast
    settings = {"tasks": "copy", "limit": 24, "readouts": "short", "engine": "llama.cpp", "progress": False}
    before = layercut.evaluate(MODEL, out=tmp_path / "before", **settings).metrics["rows"][0]["value"]
    after = layercut.evaluate(str(tmp_path / "small.gguf"), out=tmp_path / "after", **settings).metrics["rows"][0][
        "value"
    ]
    assert before > 0.5 and after > before - 0.3
