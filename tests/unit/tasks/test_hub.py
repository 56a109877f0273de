"""Data sets of the hub. One that is out of reach costs seconds and one line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from layercut.errors import InputError
from layercut.tasks import data_files
from layercut.tasks.data_files import read_hub_data, stream_hub_rows
from tests.support.answers import write_lines

datasets = pytest.importorskip("datasets", reason="hub data sets need layercut[lm-eval]")


def test_an_absent_hub_is_one_line_within_seconds(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = {"HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    code = "from layercut.tasks import load_task; load_task('gsm8k').samples('report', 2)"
    began = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **home}, capture_output=True, text=True, check=False
    )
    assert time.monotonic() - began < 15
    assert "Retrying" not in ran.stderr, ran.stderr
    assert "`data` gsm8k=PATH." in ran.stderr.splitlines()[-1]


def test_a_hub_that_never_answers_is_given_up_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "TIMEOUT", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        began = time.monotonic()
        for _ in range(4):
            with pytest.raises(InputError, match=r"openai/gsm8k .*Hugging Face hub"):
                read_hub_data("gsm8k", "openai/gsm8k")
        with pytest.raises(InputError, match=r"hub:a/b: .*Hugging Face hub"):
            next(stream_hub_rows("hub:a/b", extra="heal"))
        assert time.monotonic() - began < 6
    assert huggingface_hub.constants.HF_HUB_OFFLINE and datasets.config.HF_HUB_OFFLINE, "asked no more"


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """The library reads a folder of files under the same name as a data set of the hub."""
    for part in range(2):
        rows = ({"prompt": f"say {part * 20 + number}"} for number in range(20))
        write_lines(tmp_path / f"train-{part}.jsonl", rows)
    return f"hub:{tmp_path}"


def texts(source: str, count: int | None = None, **how: Any) -> list[str]:
    return [row.fields["prompt"] for row in islice(stream_hub_rows(source, extra="heal", **how), count)]


def test_rows_come_in_their_order_or_shuffled_by_a_seed(folder: str) -> None:
    plain = texts(folder)
    assert plain == [f"say {number}" for number in range(40)]
    shuffled = texts(folder, buffer=10, seed=42)
    assert shuffled != plain and sorted(shuffled) == sorted(plain)
    assert texts(folder, buffer=10, seed=42) == shuffled != texts(folder, buffer=10, seed=43)
    assert texts(folder, 5, buffer=10, seed=42) == shuffled[:5]


def test_without_network_or_split_one_line_says_what_to_do(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no network\nand a long trace")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match=r"hub:a/b: no data set here \(no network\). Check name") as caught:
        texts("hub:a/b")
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    with pytest.raises(InputError, match="no data set here .*split"):
        texts(f"{folder}::validation")
