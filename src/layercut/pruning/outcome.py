"""After the test: write the checkpoint, time models, and put result.json together, with its answer in words."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from layercut.engine.handle import ModelHandle
from layercut.engine.timing import Timer
from layercut.errors import InputError
from layercut.models.convert import file_sha256
from layercut.models.weights import fingerprint_weights, safetensors_files
from layercut.pruning.confirm import LEVEL, Arm, FixedSequence, handle_of_arm
from layercut.pruning.formats import FORMATS, load_made_files
from layercut.pruning.run import PruneRun, healed_checkpoint, lacking_items, removal_of
from layercut.pruning.search import load_steps
from layercut.pruning.speed import timed_rounds, timed_speeds, timer_of
from layercut.pruning.vocabulary import TRIMMED, UNUSED, describe_tokens
from layercut.runs.atomic import new_directory, write_text
from layercut.runs.directory import RunFolder
from layercut.runs.disk import size_text
from layercut.runs.environment import command_line, describe_machine, shown_path
from layercut.runs.json_text import load_json
from layercut.runs.prune import (
    GGUF,
    MODEL,
    MODELFILE,
    Alternative,
    Chosen,
    Goal,
    GoalTask,
    PruneResult,
    Served,
    SetAside,
    SideEffect,
    Size,
    TaskKept,
    TestedDepth,
    Verdict,
    better_of,
    serving_commands,
    side_effect_words,
    smallest_of,
)
from layercut.runs.study import UNCUT
from layercut.selection.answers import ObjectiveTask
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.cut import UNMEASURED, cut_model
from layercut.surgery.gguf import gguf_bytes, gguf_file
from layercut.surgery.plan import CutPlan
from layercut.text import at_least, escape_inline, markdown_table, two_decimals, with_interval

WRITTEN = "fingerprint of the checkpoint"  # a note: its weights, when they were verified


def has_checkpoint(store: RunFolder) -> bool:
    """True if the checkpoint is there, as it was verified.

    Raises:
        InputError: its weights are others by now.
    """
    folder = store.path / MODEL
    if not folder.exists():
        return False
    if _fingerprint(folder) != store.notes[WRITTEN]:
        raise InputError(
            f"the weights in {shown_path(folder)} are not those that were verified, so this verdict does not hold for "
            "them. Move that folder elsewhere, and the same command writes it again."
        )
    return True


def _fingerprint(folder: Path) -> str:
    file = folder / GGUF
    return file_sha256(file) if file.exists() else fingerprint_weights(folder)


def write_checkpoint(run: PruneRun, arm: Arm) -> None:
    """Write the checkpoint of a plan, verified by reload, or a file that was made, where that was not done before."""
    target = run.folder / MODEL
    if "verified" in run.notes and has_checkpoint(run.store):
        return
    if target.exists():  # stopped before it was known how it was verified
        shutil.rmtree(target)
    run.progress.begin("checkpoint", "writing and reloading")
    if arm.file is not None and not arm.is_gguf:
        with new_directory(target) as folder:
            shutil.copytree(arm.file, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
        checked = "the logits of the tokens that stay are those of the original model"
    elif arm.file is not None:
        if not arm.file.exists():
            raise InputError(f"{shown_path(target)} is gone, and only there was the file; use another `out`.")
        with new_directory(target) as folder:
            shutil.copyfile(arm.file, folder / GGUF)
            write_text(folder / MODELFILE, f"FROM ./{GGUF}\n")
        checked = f"its bytes are those of the file that answered in llama.cpp (SHA-256 {file_sha256(target / GGUF)})"
    elif arm.healing:
        healed = healed_checkpoint(run, arm.plan)
        if not healed.exists():
            raise InputError(
                f"{shown_path(target)} is gone, and only there were the healed weights; use another `out`."
            )
        with new_directory(target) as folder:
            shutil.copytree(healed, folder, dirs_exist_ok=True, copy_function=shutil.copyfile)
        checked = "; ".join(load_json(target / "plan.json")["healing"][-1].get("checked", []))
    else:
        checked = cut_model(run.model.source, arm.plan, target, uncut=lambda: run.model.loaded).verified
    run.notes.put(WRITTEN, _fingerprint(target))
    run.notes.put("verified", checked)
    run.progress.end("checkpoint", note=str(target))


def smallest_passed(arms: Iterable[Arm], evidence: FixedSequence) -> Arm | None:
    """The one with the fewest bytes that passed; None where none did."""
    judged = {plan.name: plan for plan in evidence.tested} | {other.run: other for other in evidence.others}
    passed = [arm for arm in arms if arm.name in judged and judged[arm.name].passed]
    return min(passed, key=lambda arm: judged[arm.name].disk_bytes, default=None)


def time_arms(run: PruneRun, arms: Sequence[Arm], others: Sequence[Arm]) -> None:
    """Note speed and memory of the original model by turns with the plans, and then with each other model and file.

    A plan is timed on the original's weights: what they hold does not change the time.
    """
    profile = run.profile
    timed: dict[str, Any] = dict(run.notes.get("timed", {}).get(profile.words, {}))

    def time(others: Mapping[str, Timer]) -> None:
        rounds = timed_rounds(
            {UNCUT: timer_of(run.original, profile=profile), **others}, profile, run.seed, run.progress
        )
        timed.update({name: {UNCUT: rounds[UNCUT], name: rounds[name]} for name in others})
        run.notes.put("timed", {**run.notes.get("timed", {}), profile.words: timed})

    run.progress.begin("speed", "timing plans by turns with the original model")
    if new := [arm for arm in arms if arm.name not in timed]:
        time({arm.name: timer_of(run.model, arm.plan, profile) for arm in new})
    for arm in others:
        is_there = arm.file is None or arm.file.exists()  # files are kept until the run is finished
        if arm.name not in timed and is_there:
            run.progress.begin("speed", f"timing {arm.other} by turns with the original model")
            model = handle_of_arm(run, arm, batch_size=profile.batch)
            time({arm.name: timer_of(model)})
            model.release()
    run.progress.end("speed", note="timed")


def outcome_of(
    run: PruneRun, evidence: FixedSequence, arm: Arm, written: Arm | None, side_effects: tuple[SideEffect, ...]
) -> PruneResult:
    """All results of the run, from what its stages left in the notes and the folder.

    Args:
        arm: the recommended plan, or the best one.
        written: the plan or file that is handed over.
    """
    notes, settings, folder, model, profile = run.notes, run.settings, run.folder, run.original, run.profile
    has_model, source = written is arm and (folder / MODEL).exists(), model.source.path
    made = load_made_files(run)
    ignored = [SetAside.model_validate(task) for task in notes["ignored"]]
    chosen = Chosen(name=arm.name, healing=arm.healing, **removal_of(arm.plan))
    verdict, why = answer_of(evidence.tested, chosen, settings.keep, notes["path_ended"], run.parts)
    tokens = "" if run.sizes.tokens is None else describe_tokens(run.sizes.tokens)
    why += f" Before layers and channels {tokens} went." if tokens else ""
    cut_bytes = _bytes_of(folder / MODEL) if has_model else plan_cut(run.model.source.path, arm.plan).bytes_after
    served = _served_models(run, evidence, arm)
    labels = {plan.name: plan.label for plan in evidence.tested if plan.passed}
    labels |= {other.run: other.model for other in evidence.others if other.passed}
    passed = [(labels[timed.run], timed) for timed in served if timed.run in labels]
    data = {task.task: task.data for task in run.goal.tasks}

    def size(name: str, of: ModelHandle, plan: CutPlan, stored: int) -> Size:
        timed, file = notes["timed"][profile.words][arm.name][name], gguf_file(of.settings.model)
        return Size(
            parameters=of.num_parameters(plan),
            disk_bytes=stored,
            gguf_bytes=None if file is None else gguf_bytes(file, plan),
            memory_bytes=timed["memory_bytes"],
        )

    return PruneResult(
        model=model.settings.model,
        model_hash=model.metadata.model_hash,
        num_layers=model.num_layers,
        dtype=model.dtype,
        goal=Goal(
            use=settings.use,
            note=run.goal.note,
            tasks=tuple(
                GoalTask(
                    task=part.task.name,
                    readout=part.readout,
                    metric=uncut.metric,
                    data=data.get(part.task.name),
                    chance=uncut.chance,
                    selection_items=uncut.estimate.n,
                    report_items=notes["report_items"][part.label],
                )
                for part, uncut in zip(run.path.parts, run.path.objective.uncut, strict=True)
            ),
            keep=settings.keep,
            level=LEVEL,
            smaller=run.sizes.most_bytes(settings),
            faster=settings.faster,
        ),
        ignored=(*ignored, *evidence.not_judged),
        resolution=notes.get("resolution", ""),
        path=tuple(load_steps(run)),
        path_ended=notes["path_ended"],
        tested=evidence.tested,
        versus=evidence.others,
        formats=tuple(made),
        not_made=tuple(notes.get(FORMATS, {}).get("not_made", ())),
        error=(1 - LEVEL) * (1 if {*settings.versus} <= {*notes["shared"]} else 2),
        verdict=verdict,
        chosen=chosen,
        tokens=tokens,
        unused_tokens=notes.get(UNUSED, ""),
        why=answer_with_files(why, evidence, settings.keep, _original_bytes(run))
        if made
        else answer_with_others(why, evidence.others, cut_bytes, is_passed=verdict == "passed"),
        fastest=describe_fastest(passed, settings.faster) if evidence.others or settings.faster else "",
        next=items_to_decide(run, evidence.tested),
        checkpoint=None if written is None else f"{MODEL}/{GGUF}" if written.is_gguf else MODEL,
        verified=str(notes.get("verified", "")),
        general=run.asks_general,
        side_effects=side_effects,
        serve=profile.words,
        serve_tokens=profile.batch * profile.tokens,
        speed=next(timed.speed for timed in served if timed.run == arm.name),
        served=served,
        size={
            "uncut": size(UNCUT, model, model.plan(), _bytes_of(source)),
            "cut": size(arm.name, run.model, arm.plan, cut_bytes),
        },
        where=describe_machine(),
        seed=run.seed,
        command=command_line(sys.argv),
        seconds=notes.seconds,
    )


def _served_models(run: PruneRun, evidence: FixedSequence, arm: Arm) -> tuple[Served, ...]:
    timed = run.notes["timed"][run.profile.words]
    names = [*(plan.name for plan in evidence.tested), arm.name, *(other.run for other in evidence.others)]
    return tuple(
        Served(
            run=name,
            speed=timed_speeds(timed[name], name, run.profile),
            memory_bytes=timed[name][name]["memory_bytes"],
            cache_bytes_per_token=timed[name][name]["cache_bytes_per_token"],
        )
        for name in dict.fromkeys(names)
        if name in timed
    )


def _original_bytes(run: PruneRun) -> int:
    """Bytes of the original model as it was given: of a GGUF file without a copy of its embeddings."""
    file = gguf_file(run.original.settings.model)
    return _bytes_of(run.original.source.path) if file is None else gguf_bytes(file, run.original.plan())


def _bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in set(safetensors_files(folder).values()))


# The answer in words


def answer_of(
    tested: Sequence[TestedDepth], chosen: Chosen, keep: float, path_ended: str, parts: Sequence[ObjectiveTask]
) -> tuple[Verdict, str]:
    """The verdict, and the answer in a few sentences."""
    if not tested:
        return "undecided", (
            "No task could be judged on the report items: the original model is not above chance there. Give more "
            "items, or easier tasks."
        )
    passed = [plan for plan in tested if plan.passed]
    failed = next((plan for plan in tested if not plan.passed), None)
    if passed:
        text = f"Passed: without {_model_of(chosen)} it keeps {_kept(passed[-1].kept)}, asked for {keep:.0%}."
        return "passed", f"{text} {_failed(failed, parts) if failed else f'{path_ended}.'}"
    assert failed is not None
    verdict: Verdict = "refuted" if failed.verdict == "shown to fail" else "undecided"
    return verdict, f"No plan passed, asked for {keep:.0%}. {_failed(failed, parts, best=True)}"


def answer_with_files(why: str, evidence: FixedSequence, keep: float, original_bytes: int) -> str:
    """The answer where files were made: the smallest model that passed, whatever made it small, comes first."""
    if (best := smallest_of([*evidence.tested, *evidence.others])) is None:
        return f"Nothing that was tested passes. {why}"
    name = best.model if isinstance(best, Alternative) else f"without {_model_of(best)}"
    change = 100 * (best.disk_bytes / original_bytes - 1)
    size = f"{size_text(best.disk_bytes)} ({change:+.0f} %)"
    return f"Smallest that passes: {name}, {size}, keeps {_kept(best.kept)}, asked for {keep:.0%}. {why}"


def answer_with_others(why: str, versus: Sequence[Alternative], disk_bytes: int, *, is_passed: bool) -> str:
    """The answer with what other models say of it; what a user should take comes first.

    Args:
        why: the answer on the plans.
        disk_bytes: of the plan that is recommended, or the best one.
        is_passed: whether it passed.
    """
    if better := better_of(versus, disk_bytes if is_passed else None):
        model = f"{better.model} passes with {size_text(better.disk_bytes)}, and keeps {_kept(better.kept)}"
        return f"Do not prune for size: {model}; the plan has {size_text(disk_bytes)}. {why}"
    if passed := better_of(versus, None):
        sizes = f"with {size_text(passed.disk_bytes)}; the plan has {size_text(disk_bytes)}"
        name = f"The {passed.model}" if passed.run == TRIMMED else passed.model
        return f"{why} {name} passes too, {sizes}."
    names = ", ".join(f"{other.model} keeps {_kept(other.kept)}" for other in versus)
    return f"{why} No other model that was named passes: {names}." if versus else why


def describe_fastest(passed: Sequence[tuple[str, Served]], faster: float | None) -> str:
    """The model that passed whose requests take the least time, and whether that is as fast as was asked for.

    Args:
        passed: names and timings of every model that passed.
        faster: times as fast as the original model.
    """
    if not passed and faster is None:
        return ""
    if not passed:
        return (
            f"Nothing passed, so nothing is {faster:g} times as fast. As a draft, whose tokens the original model "
            "checks, a plan loses nothing: layercut draft measures whether that pays."
        )
    name, best = min(passed, key=lambda model: model[1].request.ratio.value)
    speed = best.request.times_as_fast
    text = f"The fastest that passes is {name}: {two_decimals(speed)} times the original's speed a request"
    if faster is None:
        return f"{text}."
    if speed.low is not None and speed.low >= faster:
        return f"{text}, as asked."
    if speed.high is not None and speed.high < faster:
        return f"{text}, less than the {faster:g} asked for."
    return f"{text}, too near to the {faster:g} asked for to tell."


def items_to_decide(run: PruneRun, tested: Sequence[TestedDepth]) -> int | None:
    """Report items of each task that would decide the first plan that failed; None where nothing would, or a task has
    fewer.
    """
    items = next((plan.items_needed for plan in tested if not plan.passed), None)
    if items is None or min(len(part.task.samples("report", items)) for part in run.parts) < items:
        return None
    return items


def write_card(run: PruneRun, arm: Arm, evidence: FixedSequence, effects: Sequence[SideEffect]) -> None:
    """Open the checkpoint's card, once: whether the model keeps the goal, its side effects, what it keeps, and the
    command that found it. A file has no other card, and gets the commands that serve it.
    """
    models = {plan.name: plan for plan in evidence.tested} | {other.run: other for other in evidence.others}
    judged = models.get(arm.name)
    goal = f"{run.settings.keep:.0%} of the score above chance of every task"
    if judged is not None and judged.passed:
        text = f"**Passed: it keeps at least {goal}**, by one-sided {LEVEL:.0%} bounds."
    else:
        fails = judged is not None and judged.verdict == "shown to fail"
        text = f"**Not passed: it is {'shown to keep less than' if fails else 'not shown to keep'} {goal}.** "
        text += "No plan passed; this one was written all the same."
    rows = [
        (
            f"{escape_inline(task.task)} ({task.readout})",
            _share(task),
            "n/a" if task.bound is None else f"{at_least(task.bound)} %",
            f"{100 * task.uncut.value:.0f} %",
            f"{100 * task.cut.value:.0f} %",
            f"{task.cut.n:,}",
        )
        for task in (judged.kept if judged else ())
    ]
    head = ["task", "keeps, with 95 % interval", "at least", "original model", "this model", "items"]
    note = f"Items that nothing was chosen on, seed {run.seed}; `at least` is the bound that decides."
    text += f"\n\n**Side effects:** {escape_inline(words)}." if (words := side_effect_words(effects)) else ""
    command = run.store.environment["command"]
    verdict = "\n".join(
        [text, "", *markdown_table(head, rows, {1, 2, 3, 4, 5}), "", note, "", "```bash", command, "```"]
    )
    card = run.folder / MODEL / "README.md"
    if arm.is_gguf:
        write_text(card, f"{_head_of_card(run, arm)}\n{verdict}\n\n{_how_served(run)}")
    elif card.exists():
        write_text(card, card.read_text("utf-8").replace(UNMEASURED, verdict, 1))


def _head_of_card(run: PruneRun, arm: Arm) -> str:
    """Front matter and title of the card of a file."""
    origin = run.original.source.origin
    base = origin.get("base_model") or origin.get("repo")
    front = {"license": origin.get("license"), "base_model": base, "tags": ["gguf", "layercut"]}
    known = yaml.safe_dump({name: value for name, value in front.items() if value}, sort_keys=False)
    return f"---\n{known}---\n\n# {escape_inline(run.original.settings.model.rsplit('/', 1)[-1])}: {arm.other}\n"


def _how_served(run: PruneRun) -> str:
    lines = [f"{engine}: `{command}`" for engine, command in serving_commands(GGUF).items()]
    return "\n".join(["## Serve it", "", *(f"- {line}" for line in lines), ""])


def _model_of(plan: TestedDepth | Chosen) -> str:
    return f"{plan.words}, healed by {plan.healing}," if plan.healing else plan.words


def _failed(plan: TestedDepth, parts: Sequence[ObjectiveTask], *, best: bool = False) -> str:
    """The evidence on the plan that ended the test."""
    text = f"Best: {_model_of(plan)} keeps" if best else f"Without {_model_of(plan)} it keeps"
    text += f" {_kept(plan.kept)}"
    if plan.verdict == "shown to fail":
        return f"{text}; that is shown to be less than asked for."
    if plan.items_needed is None:
        return f"{text}; that is too near to what was asked for to say how many more items would decide it."
    n = max((task.uncut.n for task in plan.kept), default=0)
    text += f"; about {max(plan.items_needed - n, 1):,} more items of each task would decide it"
    if missing := lacking_items(parts, {part.label: plan.items_needed for part in parts}):
        return f"{text}: {', '.join(missing)}."
    return f"{text} (both runs together err in up to 10 %)."


def _kept(kept: Sequence[TaskKept]) -> str:
    """``97 [92, 102] % of arithmetic (n = 100)``, of each task."""
    return ", ".join(f"{_share(task)} of {task.task} (n = {task.cut.n:,})" for task in kept)


def _share(task: TaskKept) -> str:
    return "n/a" if task.kept is None else f"{with_interval(task.kept)} %"
