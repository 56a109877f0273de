"""layercut prune on a tiny model of which two layers do nothing: what it finds, and that a stop changes nothing."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import layercut
from layercut.engine.base import Decoding
from layercut.engine.plain import PlainEngine
from layercut.engine.shared import SharedEngine
from layercut.errors import InputError, RunMismatch
from layercut.progress import show_nothing
from layercut.pruning.job import Pruned
from layercut.pruning.path import ALONE, TRACES, PlanPath
from layercut.pruning.search import healing_prompts
from layercut.report.first import answer_lines
from layercut.runs.prune import Estimated, PruneResult
from layercut.runs.records import Journal, Notes
from layercut.selection.answers import ObjectiveTask
from layercut.selection.goal import general_tasks
from layercut.selection.search_journal import SearchJournal
from layercut.selection.task_criteria import correct_traces
from layercut.surgery.cut import UNMEASURED
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass
from layercut.tasks import load_task
from tests.support.pruning import SPARE, written_file
from tests.unit.pruning.conftest import DEPTHS, run


def keep_unhealed(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """As if each plan kept this share of each task on selection items, until it is healed."""
    kept = PlanPath.kept

    def less(path: PlanPath, plan: CutPlan, seed: int, healed: Any = None) -> Any:
        tasks = kept(path, plan, seed, healed)
        low = {"kept": Estimated(value=share, n=40)}
        return tasks if healed else tuple(task.model_copy(update=low) for task in tasks)

    monkeypatch.setattr(PlanPath, "kept", less)


def found(done: Pruned) -> dict[str, Any]:
    """All that must not depend on a stop: the result without times and places, every answer, and the weights."""
    data = done.result.to_dict()
    for name in ("seconds", "speed", "served", "fastest", "command", "next"):
        del data[name]
    for side in data["size"].values():
        del side["memory_bytes"]
    for file in sorted(done.folder.glob("**/samples/*.jsonl")):
        data[str(file.relative_to(done.folder))] = sorted(file.read_text().splitlines())
    if done.checkpoint is not None:
        is_file = done.checkpoint.is_file()  # GGUF
        data["weights"] = (done.checkpoint if is_file else done.checkpoint / "model.safetensors").read_bytes()
    return data


def test_each_line_names_its_step_and_no_time_that_was_not_measured(whole, screen):
    text = screen.getvalue()
    steps = [int(step) for step in re.findall(r"step (\d) of 5$", text, re.MULTILINE)]
    assert len(steps) >= 5 and steps == sorted(steps) and steps[-1] == 5
    assert "at most" not in text and "at least" not in text


def test_the_two_layers_that_do_nothing_are_found_and_confirmed(whole, model):
    result = whole.result
    assert set(result.chosen.removed) == set(SPARE) and result.verdict == "passed"
    assert [step.name for step in result.path] == ["size-28", "size-42"]
    assert result.path[1].removed[:2] == result.path[0].removed, "a plan removes the layers of the one before"
    assert result.goal.smaller == DEPTHS[3] > result.path[-1].size, "what was asked for, not the whole layers of it"
    (tested,) = result.tested
    assert tested.passed and tested.kept[0].kept is not None and tested.kept[0].kept.value == 1
    assert tested.kept[0].bound is not None and tested.kept[0].bound >= 0.8
    assert result.checkpoint == "model" and PruneResult.load(whole.folder) == result
    assert "reloaded with transformers" in result.verified
    assert {one.name for one in result.speed} == {"request", "decode", "prefill", "first token"}
    assert all(one.ratio.n == 5 and one.uncut.value > 0 for one in result.speed)
    assert result.size["cut"].disk_bytes < result.size["uncut"].disk_bytes
    assert set(result.seconds) == {"original", "path", "confirm", "checkpoint", "speed"}


def test_the_checkpoint_is_the_bypassed_model(whole, model):
    assert whole.checkpoint is not None and (whole.checkpoint / "README.md").is_file()
    cut = AutoModelForCausalLM.from_pretrained(whole.checkpoint)
    assert cut.config.num_hidden_layers == 4
    original = AutoModelForCausalLM.from_pretrained(model)
    tokens = torch.arange(32)[None]
    with torch.no_grad(), bypass(original, whole.result.chosen.removed):
        assert torch.equal(original(tokens).logits, cut(tokens).logits)
    assert layercut.CutPlan.load(whole.checkpoint / "plan.json").criterion == "prune"


def test_selection_and_report_items_are_disjoint_and_counted(whole, choices):
    (task,) = whole.result.goal.tasks
    report = {one.id for one in load_task(str(choices)).samples("report", None)}
    chosen = set(whole.plan.scores["selection_items"]["mine.jsonl"]["ids"])
    assert len(chosen) == task.selection_items == 40 == task.report_items and not chosen & report
    asked = [json.loads(line) for line in (whole.folder / "uncut/samples/mine.jsonl.rank.jsonl").open()]
    assert {one["id"] for one in asked} <= report and len(asked) == 40


def test_no_report_item_is_asked_before_the_path_is_fixed(model, choices, tmp_path, monkeypatch):
    report = {one.id for one in load_task(str(choices)).samples("report", None)}
    seen: list[tuple[bool, bool]] = []
    ask = SharedEngine.ask

    def spy(self: SharedEngine, requests: Any, *args: Any) -> Any:
        state = Notes(tmp_path / "run")
        ids = {one.id for one in requests}
        assert not ids & report or ids <= report
        seen.append((bool(ids & report), "path_ended" in state and "report_items" in state))
        return ask(self, requests, *args)

    monkeypatch.setattr(SharedEngine, "ask", spy)
    done = run(model, choices, tmp_path / "run", smaller=DEPTHS[2], one_size=True)
    assert [plan.depth for plan in done.result.tested] == [2] == [done.result.chosen.depth], "one plan was asked for"
    assert {is_report for is_report, _ in seen} == {True, False}
    assert all(is_report == is_fixed for is_report, is_fixed in seen)


class Stopped(BaseException):
    """As a kill would: nothing catches it."""


@contextmanager
def stopped_after(monkeypatch: pytest.MonkeyPatch, writes: int) -> Iterator[list[int]]:
    """Stop at the write of answers or decisions with this number; gives how many there were."""
    count = [0]
    append = Journal.append

    def write(self: Journal, records: Any) -> None:
        if count[0] == writes:
            raise Stopped
        count[0] += 1
        append(self, records)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", write)
        yield count


def in_legs(
    monkeypatch: pytest.MonkeyPatch, work: Callable[[], Pruned], out: Path, legs: Sequence[int] = (1, 7, 3, 12, 5)
) -> tuple[Pruned, int]:
    """The result of a run that is stopped after some writes and resumed, again and again, and how often it was."""
    for stops, writes in enumerate(cycle(legs)):
        assert stops < 60, "a resumed run gets no further"
        try:
            with stopped_after(monkeypatch, writes):
                return work(), stops
        except Stopped:
            assert not (out / "result.json").exists()
    raise AssertionError("unreachable")


def test_stopped_anywhere_and_resumed_is_uninterrupted(model, choices, whole, tmp_path, monkeypatch):
    ended, stops = in_legs(monkeypatch, lambda: run(model, choices, tmp_path), tmp_path)
    assert found(ended) == found(whole) and stops > 4


def test_a_finished_run_answers_without_a_model(model, choices, whole, monkeypatch):
    monkeypatch.setattr("layercut.models.loading.load_model", lambda *_, **__: pytest.fail("loaded"))
    assert run(model, choices, whole.folder).result == whole.result
    with pytest.raises(RunMismatch, match="keep"):
        run(model, choices, whole.folder, keep=0.7)


def test_healing_learns_from_items_that_judge_nothing(model, choices, whole):
    (task,) = [load_task(str(choices))]
    judged = set(whole.plan.scores["selection_items"]["mine.jsonl"]["ids"])
    engine = SharedEngine(layercut.load_model(str(model), device="cpu"))
    part = ObjectiveTask(task=task, readout="rank", limit=40)
    path = PlanPath(engine, [part], decoding=Decoding(), journal=SearchJournal(), progress=show_nothing)
    ((_, samples, records),) = path.healing_answers()
    ids = {one.id for one in samples}
    assert len(ids) >= 24 and not ids & judged and ids == {one["id"] for one in records}
    assert not ids & {one.id for one in task.samples("report", None)}
    source = healing_prompts(path, "hash")
    assert {one.id for one in source.prompts} == {f"mine.jsonl {id}" for id in ids}
    path = PlanPath(
        engine, [part], decoding=Decoding(), journal=SearchJournal(), progress=show_nothing, general=general_tasks()[:1]
    )
    ended = {one["id"] for one in path.general[0].records if one["outcome"] == "right"}
    assert 0 < len(ended) < 24
    asked = {f"mine.jsonl {id}" for id in ids} | {f"general {id}" for id in ended}
    assert {one.id for one in healing_prompts(path, "hash").prompts} == asked


def test_layers_are_proposed_by_their_damage_to_right_answers(model, tmp_path, monkeypatch):
    """Each layer alone, on the first right answers; later ones beside what is removed, of those that come first."""
    monkeypatch.setattr("layercut.pruning.path._FEWEST", 3)
    task = load_task(str(written_file(tmp_path / "mine.jsonl", model)))
    part = ObjectiveTask(task=task, readout=task.readouts[0], limit=16)
    loaded = layercut.load_model(str(model), device="cpu")
    path = PlanPath(SharedEngine(loaded), [part], decoding=Decoding(), journal=SearchJournal(), progress=show_nothing)
    requests = correct_traces(path.objective).requests
    assert len(requests) > ALONE

    def damage(removed: tuple[int, ...], num_traces: int) -> float:
        plans = [CutPlan(num_layers=6, removed=removed)]
        answers = PlainEngine(loaded).compare(requests[:num_traces], plans, CutPlan(num_layers=6))
        found = [one for _, batch in answers for one in batch]
        return sum(one.kl for one in found) / sum(one.num_tokens for one in found)

    alone = sorted(range(1, 6), key=lambda layer: (damage((layer,), ALONE), -layer))
    assert set(alone[:2]) == set(SPARE)
    assert path.proposed((), 2) == alone[:2]
    beside = sorted(alone[1:4], key=lambda layer: (damage((alone[0], layer), TRACES), -layer))
    assert path.proposed(alone[:1], 2) == beside[:2]


def test_written_answers_that_heal_are_known_by_the_ids_of_their_items(model, tmp_path):
    task = load_task(str(written_file(tmp_path / "mine.jsonl", model)))
    part = ObjectiveTask(task=task, readout=task.readouts[0], limit=16)
    engine = SharedEngine(layercut.load_model(str(model), device="cpu"))
    path = PlanPath(engine, [part], decoding=Decoding(), journal=SearchJournal(), progress=show_nothing)
    ((_, samples, _),) = path.healing_answers()
    used = healing_prompts(path, "hash").items
    assert used == {"mine.jsonl": {sample.id for sample in samples}}
    assert used["mine.jsonl"] <= task.selection_part, "so that the healed model is reported on the other items alone"


def test_a_written_file_end_to_end(model, tmp_path):
    file = written_file(tmp_path / "mine.jsonl", model)
    done = run(model, file, tmp_path / "run", items=16, smaller=DEPTHS[2], keep=0.5)
    assert set(done.result.chosen.removed) == set(SPARE) and done.result.verdict == "passed"
    assert done.kept["mine.jsonl"] is not None and done.kept["mine.jsonl"].value == 1
    assert (tmp_path / "run/searches/path/samples/traces.divergence.jsonl").is_file()


def test_where_nothing_passes_there_is_no_model_unless_anyway(model, choices, tmp_path):
    settings = {"smaller": DEPTHS[1], "items": 12, "keep": 0.99, "heal": "none", "no_side_effects": False}
    done = run(model, choices, tmp_path / "run", **settings)
    assert done.result.verdict == "undecided" and done.checkpoint is None and done.result.side_effects == ()
    assert not (tmp_path / "run" / "model").exists() and not (tmp_path / "run" / "side_effects").exists()
    assert "No plan passed, asked for 99%. Best:" in done.result.why and "half of them" in done.result.why
    with pytest.raises(InputError, match="No plan passed"):
        _ = done.model
    again = run(model, choices, tmp_path / "run", anyway=True, **settings)
    assert again.checkpoint == tmp_path / "run" / "model" and again.result.verdict == "undecided"
    assert again.model.config.num_hidden_layers == 5
    card = (again.checkpoint / "README.md").read_text("utf-8")
    assert "keep 99%" in card.split("\n---\n", 1)[1].split("\n\n")[1], "the verdict comes first"
    assert "| mine.jsonl (rank) | 100 [" in card and "| 12 |" in card and "```bash" in card and UNMEASURED not in card


def test_the_items_that_would_decide_are_named(model, choices, tmp_path):
    done = run(model, choices, tmp_path / "run", smaller=DEPTHS[1], items=12, keep=0.6, heal="none")
    needed = done.result.next
    assert needed is not None and needed == done.result.tested[0].items_needed and needed > 12
    assert f"{needed - 12:,} more items" in done.result.why
    said = answer_lines(done.result, done.folder)
    next_items = f"--items {needed} --out {tmp_path}/run-{needed}"
    assert f"Next: ask more items, the same request with {next_items}" in said
    of_flags = done.result.model_copy(update={"command": "layercut prune tiny --items=12 --keep 0.6 --out run"})
    assert f"  layercut prune tiny --keep 0.6 {next_items}" in answer_lines(of_flags, done.folder)
    passed = of_flags.model_copy(update={"next": None})
    assert answer_lines(passed, Path("run"), "pip install x")[-5:-2] == [
        "Next: weigh it against 4-bit weights on the same items:",
        "  pip install x",
        "  layercut prune tiny --items=12 --keep 0.6 --smallest --out run-smallest",
    ]


def test_a_healed_model_is_confirmed_and_written_where_it_was_chosen(model, choices, tmp_path, monkeypatch):
    keep_unhealed(monkeypatch, 0.0)
    done = run(model, choices, tmp_path / "run", smaller=DEPTHS[2], keep=0.5, heal="seam")
    assert all([one.healing for one in step.tried] == [None, "seam"] for step in done.result.path)
    assert done.result.chosen.healing == "seam" and done.result.chosen.name == "size-28+seam"
    assert done.result.verdict == "passed" and done.checkpoint is not None
    (healing,) = json.loads((done.checkpoint / "plan.json").read_text())["healing"]
    assert healing["method"] == "seam" and "a logit differs" in done.result.verified
    assert (done.folder / "size-28+seam" / "metrics.json").is_file() and not (done.folder / "healing").exists()
    assert "Healing" in (done.checkpoint / "README.md").read_text()


def test_a_family_without_a_known_mlp_is_pruned_and_not_healed(model, choices, tmp_path, monkeypatch):
    def refused(*_: Any) -> float:
        raise InputError("OPTDecoderLayer has no MLP that layercut knows, so its seam cannot be repaired.")

    keep_unhealed(monkeypatch, 0.4)
    monkeypatch.setattr("layercut.pruning.run.norm_gain", refused)
    said: list[str] = []
    done = run(model, choices, tmp_path / "run", keep=0.5, smaller=DEPTHS[1], say=said.append)
    assert [one.healing for one in done.result.path[0].tried] == [None] and done.result.verdict == "passed"
    assert any("OPTDecoderLayer has no MLP" in line for line in said)


def test_a_model_that_guesses_has_nothing_to_keep(model, tmp_path):
    with pytest.raises(InputError, match="nothing to keep: .*none of the first 8 selection items"):
        run(model, Path("arithmetic"), tmp_path / "run", items=8)
