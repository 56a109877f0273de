"""``layercut run`` on a disk that is full or read-only: one line, and with room the same command ends as anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.small_disk import small_disk
from tests.unit.cli.conftest import Run


@pytest.fixture
def study(tiny: Path, tmp_path: Path) -> Path:
    data = {
        "model": str(tiny),
        "device": "cpu",
        "dtype": "float32",
        "batch_size": 4,
        "out": "unused",
        "plans": {"last": "reverse:1"},
        "healing": [{"name": "seam", "method": "seam", "prompts": "task:copy", "limit": 20, "responses": "original"}],
        "tasks": [{"task": "arithmetic", "limit": 24, "readouts": ["rank"]}],
    }
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file in folder.glob("*/metrics.json"):
        metrics = json.loads(file.read_text())
        found[file.parent.name] = (metrics["plan"], metrics["rows"])
    for file in folder.glob("*/samples/*.jsonl"):
        found[str(file.relative_to(folder))] = sorted(file.read_text().splitlines())
    for file in folder.glob("**/checkpoint/model.safetensors"):
        found[str(file.relative_to(folder))] = file.read_bytes()
    return found


def errors(ran: Any) -> list[str]:
    assert ran.code == 1 and "Traceback" not in ran.err, ran.err
    return [line for line in ran.err.splitlines() if line.startswith("error:")]


def test_on_a_full_disk_and_with_room_again(layercut: Run, study: Path, tmp_path: Path) -> None:
    assert layercut("run", study, "--out", tmp_path / "whole").code == 0
    whole = results(tmp_path / "whole")
    assert len(whole) >= 8
    stopped_at = set()
    for kib in (24, 90, 130):
        with small_disk(tmp_path / f"disk-{kib}", kib * 1024) as disk:
            out = disk.path / "runs"
            ran = layercut("run", study, "--out", out)
            (line,) = errors(ran)
            assert "is full" in line or "too little" in line, line
            assert "same command again" in line or "Free space" in line
            for file in out.rglob("*.jsonl"):
                text = file.read_text()
                assert text == "" or text.endswith("\n")
                assert all(json.loads(one) for one in text.splitlines())
            assert not [file for file in out.rglob(".*") if file.name not in (".lock", ".gitignore")]
            stopped_at.add(len(list(out.rglob("*"))))
            disk.resize(10**8)
            ran = layercut("run", study, "--out", out)
            assert ran.code == 0, ran.err
            assert results(out) == whole
    assert len(stopped_at) == 3, "the disk was full at different steps"


def test_on_a_read_only_disk_and_when_it_can_be_written(layercut: Run, study: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 10**7) as disk:
        out = disk.path / "runs"
        disk.read_only()
        (line,) = errors(layercut("run", study, "--out", out))
        assert "Read-only file system" in line and "--out" in line
        disk.resize(10**7)
        assert layercut("run", study, "--out", out, "--limit", 8).code == 0
        disk.read_only()
        (line,) = errors(layercut("run", study, "--out", out, "--limit", 8))
        assert "Read-only file system" in line
