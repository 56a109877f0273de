"""Heal a pruned model in one resumable run: the teacher answers, filters apply, and the pruned model is trained."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from layercut.engine.estimate import CostEstimate
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.healing.data import (
    BUILT_IN,
    examples_of,
    full_test_sets,
    items_used,
    matched,
    original_records,
    question_examples,
    report_items,
    split,
    tasks_to_check,
)
from layercut.healing.estimate import estimate_healing
from layercut.healing.examples import Data
from layercut.healing.generate import answers_of
from layercut.healing.guard import (
    Guard,
    GuardTask,
    described,
    guard_tasks,
    items_of_guard,
    trained_entry,
)
from layercut.healing.learner import accuracy_of_held_out
from layercut.healing.pair import Pair, load_cut, load_pair, plan_of
from layercut.healing.process_group import ProcessGroup
from layercut.healing.prompt_sources import Answering, PromptSource, TaskPrompts, asked, check_graded
from layercut.healing.recorded import train_as_recorded
from layercut.healing.settings import RESPONSES, HealSettings, TrainSettings
from layercut.models.loading import LoadedModel, load_model
from layercut.progress import Say
from layercut.progress.bars import watched
from layercut.report.healing import healing_report
from layercut.report.healing_text import ACCURACY, GUARD, guard_lines, healing_lines
from layercut.runs.directory import REPORT, RunFolder
from layercut.runs.disk import resumable
from layercut.runs.records import Journal
from layercut.runs.settings import settings_in
from layercut.settings import ModelSettings
from layercut.surgery.checkpoint import PLAN_FILE
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import announce_isolation
from layercut.tasks.selected_items import SELECTION_ITEMS, merge_items, record_items

CHECKPOINT, TRAINING = "checkpoint", "training"
IN_FULL = "full_test_sets"
"""In a run's settings: tasks of whose whole test sets training data holds no item; left out where there is none."""
STORED = Path("samples", "teacher-logits")
FLAGS = {"micro_batch": "micro_batch", "batch_size": "batch_size", "temperature": "temperature"}


class ToTrain(NamedTuple):
    """What the first process of a group sends to the others."""

    data: Data
    folder: Path
    plan: CutPlan


class Healed(NamedTuple):
    """The outcome of a healing."""

    checkpoint: Path
    healing: dict[str, Any]

    def lines(self) -> list[str]:
        """For people."""
        where = [f"checkpoint: {self.checkpoint}", f"report: {self.checkpoint.parent / REPORT}"]
        return [*healing_lines(self.healing), *where]


def heal_model(
    cut_model: ModelSettings,
    teacher_model: ModelSettings,
    source: PromptSource,
    settings: HealSettings,
    how: Answering,
    *,
    out: Path,
    console: Console,
    say: Say,
    is_control: bool = False,
    in_full: Sequence[str] | None = None,
) -> Healed | None:
    """Heal a pruned model; ``layercut heal``. The same call again continues where it was stopped.

    In a process group all processes make the same call; the first one returns the outcome, the others None.
    ``is_control`` lets a model be its own teacher: the arm of a study that trains the original model. ``in_full`` names
    tasks of whose whole test sets training data holds no item; by default as ``full_test_sets`` says, or as the run
    was begun.

    Raises:
        InputError: settings that do not fit each other or the models, or prompts that leave nothing to train on.
        MissingExtra: TRL or PEFT is not installed.
    """
    settings = settings.replace(train=train_as_recorded(settings.train, out, "heal", "train"))
    train, group = settings.train, ProcessGroup.of_this_process()
    if not group.is_first:
        check_method(train, group)
        shared: ToTrain | None = group.share()
        if shared is not None:
            train_along(ModelHandle(cut_model), ModelHandle(teacher_model), train, shared)
            group.leave()
        return None
    cut, teacher = ModelHandle(cut_model), ModelHandle(teacher_model)
    check_graded(train, source)
    check_method(train, group)
    plan, is_another = _checked(cut, teacher, source, settings, is_control=is_control)
    guards = guard_tasks(train, settings.data, source)
    named = (*BUILT_IN, *settings.decontaminate, *settings.data)
    to_check = cache(lambda: tasks_to_check(named, settings.data))
    if in_full is None:
        begun = settings_in(out)
        in_full = full_test_sets(to_check(), source) if begun is None else begun.get(IN_FULL, ())
    run_settings = {
        "heal": settings.as_dict(),
        "cut": cut.describe(),
        "teacher": teacher.describe(),
        **asked(source, how, train.seed),
        **({IN_FULL: list(in_full)} if in_full else {}),
        **described(guards),
    }
    graders = [one.task for one in source.tasks] if train.is_graded else []
    isolation = announce_isolation((*graders, *(guard.task for guard in guards)), say)
    with resumable(out), RunFolder.begin(out, run_settings, flags=FLAGS, sandbox=isolation) as run:
        folder = run.path / CHECKPOINT
        if (folder / PLAN_FILE).is_file():  # a checkpoint is complete or absent
            group.share(None)
            return ended(run, plan)
        responses = "own" if train.is_graded else settings.responses
        say(f"{cut_model.model}: {train.method}, {train.objective}, on {responses} answers")
        for note in [*source.notes, *filter(None, (one.shortfall(train.guard_items) for one in guards))]:
            say(note)
        arms = {responses, *(RESPONSES if settings.match_tokens else ())}
        records: dict[str, list[dict[str, Any]]] = {}
        if "self" in arms:
            records["self"] = _self_records(run, teacher, source, how, train.seed, console, say)
        if "original" in arms:
            records["original"] = original_records(source.parts)
        teacher.release()  # it has answered
        loaded, uncut = load_pair(cut, teacher, train)
        if uncut is not None:
            say("the pruned model and its teacher share their weights in memory")
        items = report_items(to_check(), in_full, say)
        found = {}
        for arm, some in records.items():
            # A data set's own answers were not graded and need not be.
            filters = settings.filters.replace(right_only=False) if arm == "original" else settings.filters
            found[arm] = examples_of(some, loaded, filters, items, train.max_length, arm, say)
        if train.is_graded:
            found[responses] = question_examples(source.parts, loaded, items, train.max_length, say)
        examples, counts = found[responses]
        if settings.match_tokens:
            examples = matched({arm: made for arm, (made, _) in found.items()}, settings.responses, train.seed, say)
        data = split(examples, train, say)
        if guards and train.method != "seam" and not data.held_out:
            raise InputError("one example leaves none to hold out, where guard tasks are answered; give more prompts.")
        healing = {
            "method": train.method,
            "objective": train.objective,
            "removed": list(plan.removed),
            "responses": responses,
            "tokens_matched": settings.match_tokens,
            "teacher": teacher_model.model,
            "teacher_hash": teacher.metadata.model_hash,
            "cut_hash": cut.metadata.model_hash,
            **({"cut_from": {"model": plan.model, "model_hash": plan.model_hash}} if is_another else {}),
            "data_hash": data.hash,
            "num_examples": len(data.train),
            "num_held_out": len(data.held_out),
            **({} if train.is_graded else {"loss_tokens": data.num_tokens}),
            **counts,
            SELECTION_ITEMS: record_items(merge_items(items_used(to_check(), in_full, source), items_of_guard(guards))),
        }
        job = HealingJob(
            run=run,
            cut=cut,
            teacher=teacher,
            loaded=loaded,
            uncut=uncut,
            plan=plan,
            data=data,
            records=records.get(responses, []),
            settings=settings,
            healing=healing,
            console=console,
            say=say,
            group=group,
            tasks=source.tasks,
            guards=guards,
        )
        job.seam() if train.method == "seam" else job.train()
        return ended(run, plan)


def ended(run: RunFolder, plan: CutPlan) -> Healed:
    """Write what comes after the checkpoint, and read what it records."""
    run.write_metrics([], plan=plan.to_dict())
    healing_report(run.path)
    folder = run.path / CHECKPOINT
    return Healed(folder, json.loads((folder / PLAN_FILE).read_text("utf-8"))["healing"][-1])


def estimate_heal(
    cut_model: ModelSettings,
    teacher_model: ModelSettings,
    source: PromptSource,
    settings: HealSettings,
    how: Answering,
    *,
    out: Path,
) -> CostEstimate:
    """The cost of ``heal_model``; nothing is loaded or written. Raises what ``heal_model`` raises at its beginning."""
    cut, teacher = ModelHandle(cut_model), ModelHandle(teacher_model)
    check_graded(settings.train, source)
    check_method(settings.train, ProcessGroup(0, 1))
    _checked(cut, teacher, source, settings)
    return estimate_healing(cut, teacher, source, settings, how, out=out)


def _checked(
    cut: ModelHandle, teacher: ModelHandle, source: PromptSource, settings: HealSettings, *, is_control: bool = False
) -> tuple[CutPlan, bool]:
    """The plan of the pruned model, and whether it was cut from another model than the teacher."""
    cut.source.refuse_adapter("healing")
    if not is_control and cut.metadata.model_hash == teacher.metadata.model_hash:
        raise InputError(
            f"{cut.settings.model} is its own teacher: {teacher.settings.model} is the same model, so there is nothing "
            f"to heal. Name a model that was cut from it: layercut cut {teacher.settings.model} --remove 3 --out DIR."
        )
    settings.filters.check()
    if settings.filters.right_only and len(source.tasks) < len(source.parts):
        raise InputError("not all of these prompts are graded, so `right_only` has no meaning; take task:NAME.")
    plan = plan_of(cut)
    known = [made.model_hash for made in cut.earlier_plans if made.removed and made.model_hash]
    is_another = bool(known) and teacher.metadata.model_hash not in known
    if is_another and not cut.settings.plan_from_another_model:
        raise InputError(
            f"{cut.settings.model} was cut from {plan.model or 'another model'} ({plan.model_hash}), and "
            f"{teacher.settings.model} is another model ({teacher.metadata.model_hash}). Use that model as the "
            "teacher, or heal anyway with `plan_from_another_model`."
        )
    _check_scale(cut, settings.train)
    return plan, is_another


def check_method(train: TrainSettings, group: ProcessGroup) -> None:
    """Raise InputError or MissingExtra now for what would fail after hours of answering."""
    if group.size > 1 and train.graded:
        raise InputError(f"graded questions are for one process, and {group.size} were launched; leave `graded` out.")
    if group.size > 1 and train.guard:
        raise InputError(f"guard tasks are for one process, and {group.size} were launched; leave `guard` out.")
    if group.size > 1 and (train.method in ("seam", "qlora") or train.answers_itself):
        what = train.objective if train.answers_itself else train.method
        raise InputError(f"{what} is for one process, and {group.size} were launched; start it without a launcher.")
    if train.method == "qlora":
        from layercut.healing.adapters import quantization

        quantization()
    if train.method != "seam":
        train.batches(group.size)
        import layercut.healing.sft  # noqa: F401  says which extra is missing
        from layercut.healing.optimizers import check_optimizer

        check_optimizer(train, group.size)


def _check_scale(cut: ModelHandle, train: TrainSettings) -> None:
    """Refuse to compare streams after magnitude compensation, which changes the scale of the pruned model's."""
    file = cut.source.path / PLAN_FILE
    earlier = json.loads(file.read_text("utf-8")).get("healing", []) if file.is_file() else []
    compares = train.method == "seam" or train.objective == "hidden"
    if compares and any(_is_scaled(entry) for entry in earlier):
        raise InputError(
            f"{cut.settings.model} was healed by `seam` magnitude, so its stream has another scale than the "
            "original model's and the two cannot be compared; heal the pruned model itself, or use another objective."
        )


def _is_scaled(entry: Mapping[str, Any]) -> bool:
    """Whether a healing changed the scale of the stream; a guard may have left nothing of it."""
    return bool(entry.get("seam_map") == "magnitude" and entry.get(GUARD, {}).get("strength", 1))


def _self_records(
    run: RunFolder, teacher: ModelHandle, source: PromptSource, how: Answering, seed: int, console: Console, say: Say
) -> list[dict[str, Any]]:
    """The teacher's own answers: those of an earlier run, or generated now."""
    if source.records is not None:
        made_by = {record.get("model_hash") for record in source.records}
        if made_by != {teacher.metadata.model_hash} or any(record.get("removed") for record in source.records):
            raise InputError(
                f"some of these answers are not from the original model {teacher.settings.model}; generate them with "
                f"it: layercut generate {teacher.settings.model} --prompts ... --out DIR."
            )
        return source.records
    return answers_of(teacher, teacher.plan(), source, how, seed, run.path, console, say).chosen


class HealingJob(NamedTuple):
    """One healing and its prepared data."""

    run: RunFolder
    cut: ModelHandle
    teacher: ModelHandle
    loaded: LoadedModel
    uncut: LoadedModel | None
    """The original model, where it shares its weights with ``loaded``."""
    plan: CutPlan
    data: Data
    records: list[dict[str, Any]]
    settings: HealSettings
    healing: dict[str, Any]
    console: Console
    say: Say
    group: ProcessGroup
    tasks: list[TaskPrompts]
    guards: list[GuardTask]

    def seam(self) -> dict[str, Any]:
        """Solve for the maps, fold them in and write the checkpoint."""
        from layercut.healing.merge import write_healed
        from layercut.healing.rounding import Judge, judged_by
        from layercut.healing.seam import places_of, repair_seams

        began = time.monotonic()
        uncut = load_cut(self.teacher, self.settings.train)
        judge: Judge | None = judged_by(self.loaded.model, self.data)
        kind = self.settings.train.seam
        total = len(places_of(self.plan, kind)) * (len(self.data.train) + len(self.data.held_out))
        with watched("Reading both models", total, self.console, "texts") as on_progress:
            fits = repair_seams(self.loaded.model, uncut.model, self.plan, self.data, kind, on_progress=on_progress)
        for fit in fits:
            self.say(fit.describe())
        del uncut
        guarded = self._guard_seam()
        healing = self.healing | {
            "seams": [fit.describe() for fit in fits],
            "seam_map": self.settings.train.seam,
            "settings": {name: getattr(self.settings.train, name) for name in ("held_out", "max_length", "seed")},
            "tokens": fits[0].num_tokens,
            "seconds": round(time.monotonic() - began, 1),
            **guarded,
        }
        if guarded and not guarded[GUARD]["strength"]:
            judge = None  # nothing was gained that rounding could lose
        write = partial(write_healed, self.loaded.model, self.cut.source, dtype=self.settings.save_dtype, judge=judge)
        return self._write(healing, write, "")

    def _guard_seam(self) -> dict[str, Any]:
        """Weaken the maps until no guard is broken; the part of the healing's entry, empty without guard tasks."""
        from layercut.healing.strength import strongest_kept

        if not self.guards:
            return {}
        with ExitStack() as files:

            def journal(guard: GuardTask, strength: float) -> Journal:
                name = f"{guard.readout}.strength-{strength:g}"
                return files.enter_context(self.run.journal(guard.task.name, name))

            pruned = load_cut(self.cut, self.settings.train)
            entry = strongest_kept(self.loaded, pruned, self.guards, journal)
        return self._said(entry)

    def _said(self, entry: dict[str, Any]) -> dict[str, Any]:
        """The guard's part of the healing's entry, after it was printed."""
        for line in guard_lines(entry):
            self.say(line)
        return entry

    def train(self) -> dict[str, Any]:
        """Train, merge and write the checkpoint."""
        from layercut.healing.merge import trained_model, write_adapter, write_healed
        from layercut.healing.sft import CURVE, finished, train
        from layercut.healing.trainable import make_trainable, num_trainable

        settings, folder = self.settings.train, self.run.path / TRAINING
        trained = finished(folder)
        if trained is None:
            shared = ToTrain(self.data, self.run.path, self.plan)
            if settings.store_top_k is not None:
                self._store_logits(shared, settings.store_top_k)
            self.group.share(shared)
            pair = Pair(self.loaded, self.uncut)
            options = objective_of(pair, self.teacher, settings, shared, self.records, self.tasks)
            if settings.graded:
                options["look"] = accuracy_of_held_out(self.tasks, self.data, self.loaded, settings.graded)
            if self.guards:
                options["guard"] = Guard(self.guards, self.loaded)
            model = make_trainable(self.loaded.model, settings)
            self.say(f"{num_trainable(model):,} trainable parameters")
            with watched("Training", settings.num_steps(len(self.data.train)), self.console, "steps") as on_progress:
                trained = train(
                    model, self.loaded.tokenizer, self.data, settings, folder, on_progress=on_progress, **options
                )
            self.group.leave()
        elif self.group.size > 1:
            self.group.share(None)
        healing = self.healing | {
            "settings": _settings_in_effect(settings),
            "steps": trained.steps,
            "tokens": trained.tokens,
            "seconds": round(trained.seconds, 1),
            "stopped_early": trained.stopped_early,
            "looks": looks_of(trained.curve),
            "held_out_loss": trained.held_out,
        }
        if trained.kept_step is not None:
            healing |= self._said(trained_entry(trained.curve, trained.kept_step))
        if self.settings.keep_adapter:
            return self._write(healing, partial(write_adapter, self.cut.source, trained.final), "", CURVE)
        device = "cpu" if settings.method != "qlora" else "cuda"
        if trained.kept_step == 0:
            pruned = load_model(self.cut.source, dtype="float32", device=device).model
            write = partial(write_healed, pruned, self.cut.source, dtype=self.settings.save_dtype)
            return self._write(healing, write, "", CURVE)
        self.say("folding in, writing and comparing with the trained model ...")
        data: Data | None = self.data
        dtype = self.settings.save_dtype
        if settings.is_graded and dtype == "auto":  # a loss on given answers cannot say what rounding costs
            data, dtype = None, "float32"
        whole = trained_model(self.cut.source, trained.final, settings.method, device, data)
        write = partial(write_healed, whole.model, self.cut.source, dtype=dtype, judge=whole.judge)
        return self._write(healing, write, whole.checked, CURVE)

    def _store_logits(self, shared: ToTrain, k: int) -> None:
        """Compute the teacher's distributions once at every position in the loss."""
        from layercut.healing.distill import check_teacher
        from layercut.healing.stored import StoredLogits

        stored = StoredLogits(shared.folder / STORED, shared.data, k)
        if not stored.is_whole():
            uncut = load_cut(self.teacher, self.settings.train.replace(method="lora"))
            check_teacher(self.loaded.model, uncut.model)
            name = "Storing the teacher's likeliest tokens"
            with watched(name, stored.num_examples, self.console, "examples") as on_progress:
                stored.fill(uncut.model, on_progress=on_progress)

    def _write(
        self, healing: dict[str, Any], write: Callable[..., dict[str, Any]], checked: str, curve: str | None = None
    ) -> dict[str, Any]:
        return write(
            out=self.run.path / CHECKPOINT,
            healing=healing | {"checked": [checked] if checked else []},
            curve=self.run.path / TRAINING / curve if curve else None,
        )


def looks_of(curve: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The step and the accuracies on held-out questions, of every evaluation that asked some."""
    shares = [{name: value for name, value in line.items() if name.startswith(ACCURACY)} for line in curve]
    return [{"step": line["step"], **found} for line, found in zip(curve, shares, strict=True) if found]


def objective_of(
    pair: Pair,
    teacher: ModelHandle,
    settings: TrainSettings,
    shared: ToTrain,
    records: list[dict[str, Any]],
    tasks: Sequence[TaskPrompts] = (),
) -> dict[str, Any]:
    """Options of ``train`` that an objective needs, such as its trainer and the teacher.

    ``records`` are the answers that the data come from; ``tasks`` grade answers.
    """
    if settings.objective == "sft":
        return {}
    if settings.is_graded:
        from layercut.healing.grpo import GrpoTrainer, questions_in

        questions = questions_in(shared.data, tasks, settings)
        return {"trainer": GrpoTrainer, "cut": pair.cut, "questions": questions, "group": settings.group}
    from layercut.healing.distill import DistillTrainer, check_teacher
    from layercut.healing.examples import encode_example
    from layercut.healing.hidden import HiddenTrainer
    from layercut.healing.on_policy import OnPolicyTrainer, RolloutLength
    from layercut.healing.places import check_layers
    from layercut.healing.stored import StoredLogits, StoredTrainer

    if settings.store_top_k is not None:
        stored = StoredLogits(shared.folder / STORED, shared.data, settings.store_top_k)
        return {"trainer": StoredTrainer, "stored": stored}
    loaded, uncut = pair.cut, pair.uncut or load_cut(teacher, settings.replace(method="lora"))
    check_teacher(loaded.model, uncut.model)
    options: dict[str, Any] = {"teacher": uncut.model, "kind": settings.objective, "alpha": settings.jsd_alpha}
    if settings.objective == "hidden":
        check_layers(shared.plan, uncut.num_layers, loaded.num_layers)
        more = {"kind": "forward-kl", "plan": shared.plan, "weight": settings.hidden_weight}
        return options | more | {"trainer": HiddenTrainer}
    if settings.objective != "on-policy":
        return options | {"trainer": DistillTrainer}
    by_prompt = {encode_example(loaded.tokenizer, one).prompt: one for one in records if one["completion"]}
    length = RolloutLength(settings.rollout_start, settings.rollout_max)
    more = {"kind": "jsd", "cut": loaded, "records": by_prompt, "length": length, "drift": settings.drift_overlap}
    return options | more | {"trainer": OnPolicyTrainer}


def train_along(cut: ModelHandle, teacher: ModelHandle, settings: TrainSettings, shared: ToTrain) -> None:
    """Training in the other processes of a group, on the data that the first one sent."""
    from layercut.healing.sft import train
    from layercut.healing.trainable import make_trainable

    pair = load_pair(cut, teacher, settings)
    options = objective_of(pair, teacher, settings, shared, [])
    model = make_trainable(pair.cut.model, settings)
    train(model, pair.cut.tokenizer, shared.data, settings, shared.folder / TRAINING, **options)


def _settings_in_effect(settings: TrainSettings) -> dict[str, Any]:
    """The settings that had an effect."""
    unused = {"seam", "report_to"}
    if settings.method not in ("lora", "qlora"):
        unused |= {"rank", "alpha", "dropout"}
    if settings.method != "last-k":
        unused.add("last_k")
    if settings.objective not in ("jsd", "on-policy"):
        unused.add("jsd_alpha")
    if settings.objective != "on-policy":
        unused |= {"rollout_start", "drift_overlap"}
    if not settings.answers_itself:
        unused.add("rollout_max")
    if not settings.is_graded:
        unused.add("group")
    if settings.objective != "hidden":
        unused.add("hidden_weight")
    if settings.store_top_k is None:
        unused.add("store_top_k")
    shown = {**settings.as_dict(), "group": settings.group}  # a default of a later version is no part of as_dict
    return {name: value for name, value in shown.items() if name not in unused}
