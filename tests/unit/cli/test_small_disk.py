"""Disks that fill up or cannot be written: one line, and with room the same command ends as anywhere."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.small_disk import small_disk
from tests.unit.cli.conftest import write_prompts

PAGE = 4096


@pytest.fixture
def prompts(tmp_path) -> Path:
    return write_prompts(tmp_path / "prompts.jsonl", 200)


def torn(folder: Path) -> list[Path]:
    """What nobody will go on with."""
    checkpoints = [path for path in folder.rglob("checkpoint-*") if not (path / "trainer_state.json").is_file()]
    hidden = [path for path in folder.rglob(".*") if "lock" not in path.name and path.name != ".gitignore"]
    return checkpoints + hidden


@pytest.mark.parametrize("pages", [0, 14])
def test_answers_go_on_when_there_is_room_again(pages, layercut, tiny, prompts, tmp_path):
    with small_disk(tmp_path / "disk", max(pages, 1) * PAGE) as disk:
        out = disk.path / "run"
        if not pages:
            (disk.path / "full").write_bytes(b"x" * PAGE)
        command = ("generate", tiny, "--prompts", prompts, "--max-new-tokens", 4, "--out", out)
        ran = layercut(*command)
        assert ran.code == 1
        last = ran.err.strip().splitlines()[-1]
        if pages:
            assert last.startswith("error: the disk of ") and "is full (" in last and "run the same command" in last
        else:
            assert "can be written" in last and "No space left" in last
        assert not torn(disk.path)
        if pages == 14:
            saved = (out / "samples" / "responses.jsonl").read_bytes().count(b"\n")
            assert 0 < saved < 200 and f"{saved} answers are saved" in last
        disk.resize(1000 * PAGE)
        layercut.done(*command)
        assert (out / "samples" / "responses.jsonl").read_bytes().count(b"\n") == 200


def test_a_read_only_disk_is_one_line(layercut, tiny, prompts, tmp_path):
    layercut.done("cut", tiny, "--remove", "2", "--out", tmp_path / "cut", "--no-verify")
    with small_disk(tmp_path / "disk", 100 * PAGE) as disk:
        disk.read_only()
        out = ("--out", disk.path / "run")
        for command in (
            ("generate", tiny, "--prompts", prompts, "--max-new-tokens", 4, *out),
            ("heal", tmp_path / "cut", "--teacher", tiny, "--prompts", prompts, *out),
        ):
            ran = layercut(*command)
            assert ran.code == 1 and "Read-only file system" in ran.err.strip().splitlines()[-1]


@pytest.mark.parametrize("kib", [60, 330])
def test_a_healing_goes_on_when_there_is_room_again(kib, layercut, tiny, prompts, tmp_path):
    pytest.importorskip("trl", reason="healing by training needs layercut[heal]")
    pytest.importorskip("peft", reason="healing by training needs layercut[heal]")
    layercut.done("cut", tiny, "--remove", "2,4", "--out", tmp_path / "cut", "--no-verify")
    with small_disk(tmp_path / "disk", kib * 1024) as disk:
        out = disk.path / "run"
        command = (
            *("heal", tmp_path / "cut", "--teacher", tiny, "--prompts", prompts, "--limit", 20, "--out", out),
            *("--responses", "original", "--rank", 2, "--max-steps", 4, "--train-batch", 4, "--save-every", 2),
        )
        ran = layercut(*command)
        assert ran.code == 1
        last = ran.err.strip().splitlines()[-1]
        assert last.startswith("error: the disk of ") and "is full (" in last and "run the same command" in last
        assert not torn(disk.path) and not (out / "checkpoint").exists()
        if (out / "training" / "checkpoint-2").exists():
            assert "saved up to step" in last
        disk.resize(50_000 * 1024)
        layercut.done(*command)
        assert (out / "checkpoint" / "plan.json").is_file() and not torn(out)


@pytest.fixture
def study(tiny: Path, tmp_path) -> Path:
    data = {"model": str(tiny), "device": "cpu", "dtype": "float32", "batch_size": 4, "out": "unused"}
    data |= {"plans": {"last": "reverse:1"}, "tasks": [{"task": "arithmetic", "limit": 24, "readouts": ["rank"]}]}
    arm = {"name": "seam", "method": "seam", "prompts": "task:copy", "limit": 20, "responses": "original"}
    data |= {"healing": [arm]}
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


def error_of(ran: Any) -> str:
    assert ran.code == 1 and "Traceback" not in ran.err, ran.err
    (line,) = (line for line in ran.err.splitlines() if line.startswith("error:"))
    return line


def test_on_a_full_disk_and_with_room_again(layercut, study, tmp_path):
    layercut.done("run", study, "--out", tmp_path / "whole")
    whole = results(tmp_path / "whole")
    assert len(whole) >= 8
    stopped_at = set()
    for kib in (24, 90, 130):
        with small_disk(tmp_path / f"disk-{kib}", kib * 1024) as disk:
            out = disk.path / "runs"
            line = error_of(layercut("run", study, "--out", out))
            assert "is full" in line or "too little" in line, line
            assert "same command again" in line or "Free space" in line
            for file in out.rglob("*.jsonl"):
                text = file.read_text()
                assert text == "" or text.endswith("\n")
                assert all(json.loads(one) for one in text.splitlines())
            assert not [file for file in out.rglob(".*") if file.name not in (".lock", ".gitignore")]
            stopped_at.add(len(list(out.rglob("*"))))
            disk.resize(10**8)
            layercut.done("run", study, "--out", out)
            assert results(out) == whole
    assert len(stopped_at) == 3, "the disk was full at different steps"


def test_on_a_read_only_disk_and_when_it_can_be_written(layercut, study, tmp_path):
    with small_disk(tmp_path / "disk", 10**7) as disk:
        out = disk.path / "runs"
        disk.read_only()
        line = error_of(layercut("run", study, "--out", out))
        assert "Read-only file system" in line and "--out" in line
        disk.resize(10**7)
        layercut.done("run", study, "--out", out, "--limit", 8)
        disk.read_only()
        assert "Read-only file system" in error_of(layercut("run", study, "--out", out, "--limit", 8))
