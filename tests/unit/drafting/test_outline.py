"""The dry run of ``draft`` says items and plans, and writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layercut.cli.console import IO
from layercut.errors import InputError
from layercut.verbs.draft import DraftVerb


def lines(model: Path, task: Path, out: Path, **more: Any) -> list[str]:
    return list(DraftVerb.of(model=model, tasks=[str(task)], out=out, items=12, **more).rehearse(IO).lines)


def test_a_search_reads_answers_under_many_plans_and_writes_some(model: Path, task: Path, tmp_path: Path) -> None:
    found = "\n".join(lines(model, task, tmp_path / "run"))
    assert (
        "12 items" in found
        and "read under plans, about: 60 plans" in found
        and "written alone and with the draft: 16 items" in found
    )
    assert "timed first" in found and "nothing was written" in found and not (tmp_path / "run").exists()


def test_a_plan_that_is_named_is_read_alone(model: Path, task: Path, tmp_path: Path) -> None:
    found = "\n".join(lines(model, task, tmp_path / "run", remove="1-2", measured=0))
    assert "read under the plan: 1 plan" in found and "with the draft" not in found


def test_what_the_run_would_refuse_is_refused(model: Path, task: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`serve` prompt=90000000"):
        lines(model, task, tmp_path / "run", serve="prompt=90000000")
    with pytest.raises(InputError, match="nodir"):
        lines(model, task, tmp_path / "run", draft=str(tmp_path / "nodir"))


def test_times_alone_ask_nothing(model: Path, tmp_path: Path) -> None:
    found = list(DraftVerb.of(model=model, times_only=True, out=tmp_path / "run").rehearse(IO).lines)
    assert not any("items" in line for line in found) and any("timed first" in line for line in found)
