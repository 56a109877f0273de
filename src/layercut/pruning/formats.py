"""Make GGUF files of the original model and of the best plan, and choose on selection items which are tested."""

from __future__ import annotations

import shutil
from pathlib import Path

from layercut.errors import InputError, VerificationError
from layercut.models.gguf_file import find_copied_matrix
from layercut.models.make_gguf import convert_folder, quantise_gguf
from layercut.pruning.confirm import PLANS, Arm, share_words
from layercut.pruning.run import PruneRun, healed_checkpoint
from layercut.pruning.search import tested_arms
from layercut.pruning.speed import MadeModel
from layercut.pruning.vocabulary import TRIMMED, describe_trimmed
from layercut.runs.prune import MadeFile, least_kept
from layercut.runs.study import UNCUT
from layercut.surgery.cut import cut_model
from layercut.surgery.gguf import cut_gguf_file, gguf_file

FORMATS = "formats"  # name of the stage, and folder of the files
_WHOLE = "whole.gguf"  # a plan's file before it is quantised


def candidate_paths(run: PruneRun) -> dict[str, list[Arm]]:
    """What is tested on report items, in order: plans and files of the best one; files of the original model.

    Without files the original model without tokens is the second path, where tokens go.

    Each path goes from the largest to the smallest. Two paths, because a plan that fails says nothing about the
    original model in fewer bits. Files that keep less than was asked for on selection items are left out.
    """
    plans = tested_arms(run)
    if not run.settings.gguf_types and run.sizes.tokens is None:
        return {PLANS: plans}
    if not run.settings.gguf_types:
        words = describe_trimmed(run.sizes.tokens)
        folder = run.model.source.path
        return {PLANS: plans, UNCUT: [Arm(TRIMMED, run.model.plan(), stage=words, other=words, file=folder)]}
    if FORMATS not in run.notes:
        _make_files(run, plans[-1])
    arms = {arm.name: arm for arm in (Arm(UNCUT, run.model.plan()), *plans)}
    paths: dict[str, list[Arm]] = {PLANS: plans, UNCUT: []}
    for made in sorted(load_made_files(run), key=lambda made: -made.disk_bytes):
        if least_kept(made.kept) >= run.settings.keep:
            path = paths[UNCUT if made.plan == UNCUT else PLANS]
            file = run.folder / made.file
            path.append(arms[made.plan]._replace(name=made.run, stage=made.model, other=made.model, file=file))
    return {name: path for name, path in paths.items() if path}


def load_made_files(run: PruneRun) -> list[MadeFile]:
    """The files that were made, with what they keep of selection items."""
    return [MadeFile.model_validate(made) for made in run.notes.get(FORMATS, {"made": []})["made"]]


def _make_files(run: PruneRun, best: Arm) -> None:
    """Make all files and judge them on selection items; one that cannot be made is left out, with its reason."""
    made: list[MadeFile] = []
    not_made: list[str] = []
    for arm in (Arm(UNCUT, run.model.plan()), best):
        words = " ".join(filter(None, (arm.plan.label, arm.healing))) or describe_trimmed(run.sizes.tokens)
        try:
            whole, has_types = _make_whole_file(run, arm)
        except (InputError, VerificationError) as error:
            not_made.append(f"no GGUF file of {words}: {error}")
            continue
        kinds = [*run.settings.gguf_types, *(["own types"] if has_types else [])]
        for kind in kinds:
            label, file = f"{words}, {kind}", whole if kind == "own types" else whole.with_name(f"{kind}.gguf")
            run.progress.begin(label, "making the file")
            try:
                if not file.exists():
                    quantise_gguf(whole, file, kind)
            except InputError as error:
                not_made.append(f"{label}: {error}")
                continue
            if has_types and file is not whole and file.stat().st_size >= whole.stat().st_size:
                not_made.append(f"{label}: it is no smaller than the model's own file")
                continue
            made.append(_judge_file(run, arm, label, file))
    for reason in not_made:
        run.say(reason)
    run.notes.put(FORMATS, {"made": [file.model_dump(mode="json") for file in made], "not_made": not_made})


def _judge_file(run: PruneRun, arm: Arm, label: str, file: Path) -> MadeFile:
    run.progress.begin(label, "scoring selection items")
    model = MadeModel(run.model, file)
    kept = run.path.kept(arm.plan, run.seed, model.engine)
    model.release()
    run.progress.end(label, chosen=share_words(kept))
    return MadeFile(
        model=label,
        run=f"{FORMATS}/{arm.name}/{file.stem}",
        plan=arm.name,
        file=str(file.relative_to(run.folder)),
        disk_bytes=file.stat().st_size,
        kept=kept,
    )


def _make_whole_file(run: PruneRun, arm: Arm) -> tuple[Path, bool]:
    """The GGUF file of a model before it is quantised, and True where it has types of its own: a model that is a GGUF
    file is cut as one, and another's folder is converted.
    """
    folder = run.folder / FORMATS / f"{arm.name}-files"
    out, file = folder / _WHOLE, gguf_file(run.model.settings.model)
    if out.exists():
        return out, file is not None
    run.progress.begin(FORMATS, f"writing the GGUF file of {arm.stage}")
    folder.mkdir(parents=True, exist_ok=True)
    healed = healed_checkpoint(run, arm.plan) if arm.healing else None
    if file is None:
        cut = folder / "checkpoint"
        checkpoint = healed or (run.model.source.path if arm.plan.is_uncut else cut)
        if not checkpoint.exists():
            cut_model(run.model.source, arm.plan, cut, uncut=None)
        convert_folder(checkpoint, out)
        shutil.rmtree(cut, ignore_errors=True)
    elif arm.plan.is_uncut and find_copied_matrix(file) is None:
        out.symlink_to(file.absolute())
    else:
        cut_gguf_file(run.model.settings, lambda **_: arm.plan, file, out, verify=bool(healed), healed=healed)
    return out, file is not None
