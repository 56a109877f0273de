"""Disks that fill up or cannot be written under ``generate`` and ``heal``: a real one of a few kilobytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")
pytest.importorskip("peft", reason="healing by training needs layercut[heal]")

from tests.support.small_disk import small_disk
from tests.unit.cli.conftest import Run

PAGE = 4096


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    rows = [{"instruction": f"Count to {number}", "output": "one two three"} for number in range(200)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "prompts.jsonl"


def torn(folder: Path) -> list[Path]:
    """What nobody will go on with."""
    checkpoints = [path for path in folder.rglob("checkpoint-*") if not (path / "trainer_state.json").is_file()]
    hidden = [path for path in folder.rglob(".*") if "lock" not in path.name and path.name != ".gitignore"]
    return checkpoints + hidden


@pytest.mark.parametrize("pages", [0, 14])
def test_answers_go_on_when_there_is_room_again(
    pages: int, layercut: Run, tiny: Path, prompts: Path, tmp_path: Path
) -> None:
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
        again = layercut(*command)
        assert again.code == 0, again.err
        assert (out / "samples" / "responses.jsonl").read_bytes().count(b"\n") == 200


def test_a_read_only_disk_is_one_line(layercut: Run, tiny: Path, prompts: Path, tmp_path: Path) -> None:
    assert layercut("cut", tiny, "--remove", "2", "--out", tmp_path / "cut", "--no-verify").code == 0
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
def test_a_healing_goes_on_when_there_is_room_again(
    kib: int, layercut: Run, tiny: Path, prompts: Path, tmp_path: Path
) -> None:
    assert layercut("cut", tiny, "--remove", "2,4", "--out", tmp_path / "cut", "--no-verify").code == 0
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
        again = layercut(*command)
        assert again.code == 0, again.err
        assert (out / "checkpoint" / "plan.json").is_file() and not torn(out)
