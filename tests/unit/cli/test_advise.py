"""``layercut advise`` on a study that was built from chosen scores."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.run_builder import build_quickstart
from tests.unit.cli.conftest import Run


def test_advise_prints_the_page_and_keeps_it(layercut: Run, tmp_path: Path) -> None:
    build_quickstart(tmp_path / "study")
    ran = layercut("advise", tmp_path / "study", "--use", "math")
    assert ran.code == 0, ran.err
    assert "How deep can the model be cut for writing calculations?" in ran.words
    assert "reverse-3 (3 layers): refuted; arithmetic (short answer) keeps at most" in ran.words
    assert "advice:" in ran.err
    assert (tmp_path / "study" / "advice.md").is_file()


def test_advise_answers_machines(layercut: Run, tmp_path: Path) -> None:
    build_quickstart(tmp_path / "study")
    ran = layercut("advise", tmp_path / "study", "--use", "copy", "--keep", "0.5", "--json")
    data = json.loads(ran.out)
    assert (data["answer"], data["recommended"], data["evidence"]) == ("cut", "random-3", "generation")
    assert (data["use"], data["keep"], data["confidence"]) == ("copy", 0.5, 0.95)


def test_what_is_no_study_is_one_line(layercut: Run, tmp_path: Path) -> None:
    ran = layercut("advise", tmp_path)
    assert ran.code == 1
    assert "is not the folder of a study" in ran.err
    assert "Traceback" not in ran.err
