"""A hub that is out of reach costs seconds and one line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest

from layercut.errors import InputError
from layercut.tasks import hub_reach
from layercut.tasks.data_files import read_hub
from layercut.tasks.hub_rows import hub_rows

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
    monkeypatch.setattr(hub_reach, "TIMEOUT", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began, before = time.monotonic(), datasets.config.HF_HUB_OFFLINE
        for _ in range(4):
            with pytest.raises(InputError, match=r"openai/gsm8k .*Hugging Face hub"):
                read_hub("gsm8k", "openai/gsm8k")
        with pytest.raises(InputError, match=r"hub:a/b: .*Hugging Face hub"):
            next(hub_rows("hub:a/b", extra="heal"))
        assert time.monotonic() - began < 6
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False and datasets.config.HF_HUB_OFFLINE is before
