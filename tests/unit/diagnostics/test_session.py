from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layercut.diagnostics import chosen_diagnostics, load_diagnostic
from layercut.diagnostics.session import DiagnosticSession, SessionModel
from layercut.engine.base import Divergence, LikelihoodRequest, TokenDamage
from layercut.errors import InputError, RunMismatch
from layercut.runs.records import Journal
from tests.support.fake_engine import Killed
from tests.support.patient import UNCUT, PatientEngine, right_answers, session

REQUEST = LikelihoodRequest(id="a", prompt="x", continuations=("12",))


@pytest.mark.parametrize("kill_after", [1, 9])
def test_a_killed_diagnostic_goes_on_and_asks_nothing_twice(tmp_path, kill_after):
    whole = load_diagnostic("propagation")(session(PatientEngine("no_times"), tmp_path / "whole", limit=6))
    killed, second = PatientEngine("no_times", kill_after=kill_after), PatientEngine("no_times")
    with pytest.raises(Killed):
        load_diagnostic("propagation")(session(killed, tmp_path / "run", limit=6))
    assert load_diagnostic("propagation")(session(second, tmp_path / "run", limit=6)) == whole
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    for name in files:
        one, other = (
            {record["id"]: record for record in _records(tmp_path / folder / name)} for folder in ("whole", "run")
        )
        assert one == other
        assert len(_records(tmp_path / "run" / name)) == len(other)
    third = PatientEngine("no_times", kill_after=0)
    assert load_diagnostic("propagation")(session(third, tmp_path / "run", limit=6)) == whole
    assert not third.calls


def _records(path: Path) -> list[dict[str, Any]]:
    with Journal(path) as journal:
        return list(journal.records)


def test_progress_counts_the_answers_to_each_question(tmp_path):
    recorded: dict[str, list[tuple[int, int]]] = {}

    def progress(name: str, done: int, total: int) -> None:
        recorded.setdefault(name, []).append((done, total))

    load_diagnostic("brackets")(session(PatientEngine("healthy"), tmp_path, limit=4, progress=progress))
    assert recorded.keys() == {"brackets.closed", "brackets.next", "brackets.programs", "brackets.runs"}
    assert recorded["brackets.closed"][0] == (0, 8) and recorded["brackets.closed"][-1] == (8, 8)
    for counts in recorded.values():
        assert counts == sorted(counts) and len({total for _, total in counts}) == 1 and counts[-1][0] == counts[-1][1]


def test_another_question_under_the_same_id_is_refused(tmp_path):
    patient = session(PatientEngine("healthy"), tmp_path)
    request = LikelihoodRequest(id=next(iter(right_answers())), prompt="x", continuations=("a",))
    patient.ask("q", [request])
    with pytest.raises(RunMismatch, match="under the id"):
        patient.ask("q", [LikelihoodRequest(id=request.id, prompt="y", continuations=("a",))])


class Checkpoint(PatientEngine):
    """A model of its own, whose tokens are given."""

    def __init__(self, *tokens: TokenDamage) -> None:
        super().__init__("healthy")
        self.tokens = tokens

    def _damage(self, request: LikelihoodRequest, plan: Any, reference: Any) -> Divergence:
        assert plan.key == reference.key == "uncut"
        return Divergence(id=request.id, num_tokens=2, nll=1, reference_nll=1, kl=0, tokens=self.tokens)


def beside(checkpoint: Checkpoint, folder: Path) -> DiagnosticSession:
    uncut = Checkpoint(TokenDamage("1", 0.5, 0.5, 0, 1, 1, "1", "1"), TokenDamage("2", 0.25, 0.25, 0, 2, 2, "3", "3"))
    both = [
        SessionModel(name="uncut", source="uncut", plan=UNCUT, engine=lambda: uncut),
        SessionModel(name="healed", source="other", plan=UNCUT, engine=lambda: checkpoint),
    ]
    return DiagnosticSession(both, lambda name, arm: Journal(folder / f"{name}.{arm}.jsonl"))


def test_a_checkpoint_is_set_against_the_uncut_models_tokens(tmp_path):
    own = Checkpoint(TokenDamage("1", 2, 2, 0, 7, 7, "9", "9"), TokenDamage("2", 1, 1, 0, 1, 1, "2", "2"))
    found = beside(own, tmp_path).damages("q", [REQUEST])["healed"]["a"]["tokens"]
    assert found[0] == {
        "text": "1", "nll": 2, "reference_nll": 0.5, "kl": None, "rank": 7, "reference_rank": 1, "likeliest": "9",
        "reference_likeliest": "1",
    }  # fmt: skip
    assert found[1]["reference_rank"] == 2


def test_a_checkpoint_with_other_tokens_is_left_out(tmp_path):
    both = beside(Checkpoint(TokenDamage("12", 2, 2, 0, 7, 7, "9", "9")), tmp_path)
    assert list(both.damages("q", [REQUEST])) == ["uncut"]
    assert both.notes == ["healed cuts text into other tokens, so nothing is said of it token by token."]


def test_names_of_diagnostics():
    assert chosen_diagnostics([])[0] == "arithmetic"
    assert chosen_diagnostics(["propagation", "brackets"]) == ["brackets", "propagation"]
    with pytest.raises(InputError, match="unknown diagnostic 'bracket'.*brackets"):
        chosen_diagnostics(["bracket"])


def test_chance_does_not_depend_on_the_number_of_items(tmp_path):
    few, more = (
        load_diagnostic("arithmetic")(session(PatientEngine("healthy"), tmp_path / str(limit), limit=limit))["rows"]
        for limit in (2, 6)
    )
    chances = [{row.metric: row.chance for row in rows if not row.group} for rows in (few, more)]
    assert chances[0] == chances[1] and chances[0]["written"] is not None and chances[0]["written"] < 0.1
