"""Quantise a model to a GGUF file of a given size whose tensors have the types that its own answers need most.

Answers to selection items give the statistics and choose; other answers measure the divergence. Statistics and damages
do not depend on the size, so that another size in the same folder takes the time of writing alone.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from layercut.engine.handle import ModelHandle
from layercut.engines import ENGINES
from layercut.errors import InputError
from layercut.models.gguf_file import EMBEDDINGS, find_copied_matrix, read_gguf_head
from layercut.models.make_gguf import check_makers, convert_folder
from layercut.progress.bars import RunProgress
from layercut.quantising import QuantiseSettings
from layercut.quantising.damage import Matrix, match_matrices, type_sizes
from layercut.quantising.files import (
    Layout,
    QuantiseRun,
    compare_files,
    decide_types,
    measure_damages,
    write_file,
)
from layercut.quantising.imatrix import ImportanceMatrix, check_imatrix, read_imatrix, write_imatrix
from layercut.quantising.statistics import Statistics, Text
from layercut.runs.directory import RunFolder
from layercut.runs.disk import resumable_writing
from layercut.runs.environment import command_line, describe_machine
from layercut.runs.quantise import QuantiseResult, TypeRow
from layercut.selection.goal import GoalTasks, general_tasks
from layercut.selection.search_journal import SearchJournal
from layercut.selection.written_answers import AnswerWriter, WrittenAnswer
from layercut.surgery.gguf import cut_gguf_file, gguf_file
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import Evaluated

_SIZES = ("size", "bits", "types", "recipe", "imatrix", "compare_plain", "use", "tasks")
"""Settings that may differ when a run goes on: they choose among what was measured, or are recorded elsewhere."""
_FEWEST = 3  # answers of each task
_FLOAT32 = "float32"  # of gradients and divergences; answers are written in the dtype of the settings


class Quantised(NamedTuple):
    """The result, its folder, and the test of the file where one was asked for."""

    folder: Path
    result: QuantiseResult
    tested: Evaluated | None = None


class OwnAnswers(NamedTuple):
    """Own answers of the original model, in the tokens of the model that is quantised."""

    learned: list[Text]  # give the statistics
    held_out: list[Text]
    num_left_out: int  # answers with a token that was removed


def quantise_model(
    original: ModelHandle,
    remaining: ModelHandle | None,
    settings: QuantiseSettings,
    goal: GoalTasks,
    *,
    folder: Path,
    file: Path | None = None,
    imatrix: Path | None = None,
    seed: int = 0,
    console: Console,
    say: Callable[[str], None],
) -> Quantised:
    """Measure, choose, write and compare; the same call again goes on where it was stopped.

    Args:
        original: the model whose answers count; they are written by its engine, in its dtype.
        remaining: what a plan left of it, which is quantised in its place.
        folder: the run folder.
        file: the GGUF file to write; one in the folder, named by its size, if left out.
        imatrix: where the importance matrix is written too.
    """
    base, cut = remaining or original, None if remaining is None else remaining.last_cut
    if ENGINES[base.settings.engine].reads_weights or base.dtype != _FLOAT32:  # gradients need both
        base = ModelHandle(base.settings.replace(engine=next(iter(ENGINES)), dtype=_FLOAT32))
    check_makers(converts=gguf_file(base.settings.model) is None)
    fixed = {name: value for name, value in settings.as_dict().items() if name not in _SIZES}
    tasks = [{**part.describe(), "limit": None} for part in goal.parts(seed)]
    wanted = {**original.describe(), **({} if cut is None else cut.gone), "tasks": tasks, **fixed, "seed": seed}
    progress = RunProgress(console, steps=["answers", "statistics", "damage", "writing", "divergence"])

    @contextmanager
    def stage(name: str, doing: str) -> Iterator[None]:
        progress.step(name)
        progress.begin(name, doing)
        with run.notes.stage(name):
            yield
        progress.end(name, note="done")

    if goal.note:
        say(goal.note)
    with resumable_writing(folder), RunFolder.begin(folder, wanted) as run, progress.running():
        with stage("answers", "answers of the original model"), SearchJournal(run) as journal:
            own = _own_answers(AnswerWriter(original, journal, progress), cut, settings, goal, seed)
        if base is not original:
            original.release()
        whole = _write_whole_file(base, folder, say)
        with stage("statistics", "reading answers forward and backward" if settings.gradients else "reading answers"):
            statistics = Statistics(folder / "statistics.npz", settings.gradients)
            statistics.read(base.loaded, own.learned, seed, progress)
            matrices = match_matrices(whole, read_gguf_head(whole), base.loaded.model, statistics.importance())
        tokens = sum(len(text.tokens) for text in own.learned)
        if imatrix is not None and not imatrix.exists():
            named = tuple(task.task for task in goal.tasks)
            write_imatrix(imatrix, ImportanceMatrix({own.name: own.columns for own in matrices}, tokens, named))
        if settings.imatrix is not None:
            matrices = _with_foreign(settings.imatrix, matrices)
        work = QuantiseRun(run, base, whole, matrices, own.held_out, seed, progress)
        layout = Layout(whole, matrices)
        result = QuantiseResult(
            model=original.settings.model,
            removed="" if cut is None else cut.describe(),
            bytes_before=whole.stat().st_size,
            num_texts=len(own.learned),
            num_tokens=tokens,
            imatrix=None if imatrix is None else str(imatrix),
            notes=tuple(_remarks(layout, own)),
            where=describe_machine(),
            seed=seed,
            command=command_line(sys.argv),
        )
        if settings.writes_file:
            with stage("damage", "rounding rows of each tensor"):
                damages = measure_damages(work)
            types = decide_types(settings, layout, damages)
            file = file or folder / f"{_label(settings)}.gguf"
            with stage("writing", f"writing {file.name}"):
                write_file(work, layout, types, file)
            with stage("divergence", "reading answers"):
                files = compare_files(work, layout, types, file, damages, plain=settings.compare_plain)
            result = result.model_copy(update={**_described(layout, types, file), "files": tuple(files)})
        result = result.model_copy(update={"seconds": run.notes.seconds})
        result.save(folder)
    base.release()  # its weights may be those of a file
    return Quantised(folder, result)


def _label(settings: QuantiseSettings) -> str:
    """Name of the file: ``600MB``, ``3.2bits``, or that of the recipe."""
    if settings.recipe is not None:
        return settings.recipe.stem
    return (settings.size or f"{settings.bits:g}bits").replace(" ", "")


def _own_answers(
    writer: AnswerWriter, cut: CutPlan | None, settings: QuantiseSettings, goal: GoalTasks, seed: int
) -> OwnAnswers:
    """Answers to selection items of each task, and to general requests; those after the first ones are held out."""
    learned, held_out = list[WrittenAnswer](), list[WrittenAnswer]()
    for part in goal.parts(seed):
        answers = writer.write(part, "selection", settings.answers + settings.held_out)
        if len(answers) < _FEWEST:
            raise InputError(f"{part.label} has {len(answers)} answered selection items; {_FEWEST} are the least.")
        first = min(settings.answers, 2 * len(answers) // 3)
        learned += answers[:first]
        held_out += answers[first : first + settings.held_out]
    for part in general_tasks(settings.general // 2) if settings.general > 1 else ():
        learned += writer.write(part, "selection", settings.general // 2)
    vocabulary = None if cut is None else cut.vocabulary

    def texts(answers: Sequence[WrittenAnswer]) -> list[Text]:
        kept = []
        for answer in answers:
            tokens = (*answer.prompt, *answer.tokens)
            if vocabulary is None or all(token in vocabulary.new_ids for token in tokens):
                own = tokens if vocabulary is None else tuple(vocabulary.new_ids[token] for token in tokens)
                kept.append(Text(answer.id, own, len(answer.prompt)))
        return kept

    own = OwnAnswers(texts(learned), texts(held_out), 0)
    if not own.learned or not own.held_out:
        raise InputError("every answer holds a token that `remove` takes away; keep the tokens of your task's texts.")
    return own._replace(num_left_out=len(learned) + len(held_out) - len(own.learned) - len(own.held_out))


def _write_whole_file(base: ModelHandle, folder: Path, say: Callable[[str], None]) -> Path:
    """The GGUF file that is quantised: the model's own, without a copy of its embeddings, or its converted folder."""
    file, out = gguf_file(base.settings.model), folder / "whole.gguf"
    if file is not None and find_copied_matrix(file) is None:
        return file
    if not out.exists():
        say("writing the GGUF file that is quantised ...")
        if file is None:
            convert_folder(base.source.path, out)
        else:
            cut_gguf_file(base.settings, lambda **_: base.plan(), file, out, verify=False)
    return out


def _with_foreign(file: Path, matrices: Sequence[Matrix]) -> list[Matrix]:
    """Matrices whose columns are weighed by another importance matrix, where it names them."""
    foreign = read_imatrix(file)
    check_imatrix(file, foreign, {own.name: own.tensor.shape[0] for own in matrices})
    changed = []
    for own in matrices:
        first, *rest = own.importance
        columns = foreign.columns.get(own.name, first.columns)
        changed.append(own._replace(importance=(first._replace(columns=columns), *rest)))
    return changed


def _described(layout: Layout, types: dict[str, str], file: Path) -> dict[str, object]:
    counted, in_bytes = Counter(types.values()), layout.by_type(types)

    def bits(kind: str) -> float:
        block, size = type_sizes(kind)
        return size / block

    return {
        "file": str(file),
        "num_bytes": file.stat().st_size,
        "bits": 8 * in_bytes.total() / layout.num_weights,
        "types": tuple(
            TypeRow(kind=kind, tensors=counted[kind], num_bytes=in_bytes[kind])
            for kind in sorted(counted, key=bits, reverse=True)
        ),
        "embeddings": types.get(EMBEDDINGS, ""),
        "by_tensor": types,
    }


def _remarks(layout: Layout, own: OwnAnswers) -> Iterator[str]:
    if layout.others:
        first = next(iter(layout.others))
        yield f"{len(layout.others)} tensors without statistics have eight bits or their own type, such as {first}"
    if own.num_left_out:
        yield f"{own.num_left_out} answers hold a token that was removed, and were left out"
