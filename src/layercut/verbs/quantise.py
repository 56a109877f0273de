"""``quantise``: a GGUF file of a given size, whose bits are where the user's task needs them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.quantising import QuantiseSettings
from layercut.selection.goal import GoalTasks, goal_tasks
from layercut.selection.specs import Removed
from layercut.settings import ModelSettings
from layercut.tasks.suites import check_tasks
from layercut.verbs import fields
from layercut.verbs.base import Fields, Flag, Io, Shown, Verb
from layercut.verbs.measure import EvalVerb

if TYPE_CHECKING:
    from layercut.quantising.job import Quantised


class QuantiseVerb(Verb):
    """Write MODEL as a GGUF file of a given size, with more bits where your task needs them.

    Measures on the model's own answers how much each weight matrix matters, and what each ggml type does to it. Then
    gives every tensor the type with which the sum of the damages is least in so many bytes, and measures the divergence
    of the file on answers that it did not use. llama.cpp and all that is made of it read the file.

    Example: layercut quantise bundled:smollm2-135m --tasks mine.jsonl --size 75MB --out mine.gguf
    """

    VERB = "quantise"
    POSITIONAL = ("model", "tokenizer")
    RETURNS = "result, all that quantise.json holds, folder and file."
    RUNS_PROGRAMS = True
    HIDDEN = "unsafe_exec"

    model: Annotated[ModelSettings, Fields("Model", shown="dtype device", without="quantize engine_pool base_url")]
    goal: Annotated[QuantiseSettings, Fields(shown="use tasks size bits types answers general imatrix recipe")]
    remove: Annotated[Removed | None, Flag("LAYERS")] = Field(
        None, description="What is removed first, as in cut: a plan.json, layers, vocab:ascii, mlp:0.1."
    )
    items: int | None = Field(
        None, ge=1, description="Test the file at once, on so many report items of each task that MODEL answers too."
    )
    out: fields.Out = Field(
        None, description="The file, which ends in .gguf, or a run folder; runs/quantise-<model> if left out."
    )
    write_imatrix: Annotated[Path | None, Flag("FILE")] = Field(
        None, description="Write the importance matrix too, for llama-quantize --imatrix; .dat is the older form."
    )
    data: Annotated[fields.Data, Flag("TASK=PATH", hidden=True, repeated=True)]
    data_dir: Annotated[fields.DataDir, Flag("DIR", hidden=True)]
    seed: Annotated[fields.RandomSeed, Flag("INTEGER", hidden=True)] = 0

    def check(self) -> None:
        check_tasks(self.tasks.tasks)
        if not self.goal.writes_file and self.write_imatrix is None:
            raise InputError("say how large the file may be: `size` 600MB or 55%, `bits` 3.2, or a `recipe`.")

    @cached_property
    def tasks(self) -> GoalTasks:
        """The tasks whose answers count."""
        return goal_tasks(self.goal, self.data, self.data_dir)

    @property
    def run_folder(self) -> Path:
        folder = super().run_folder
        return folder.with_suffix("") if folder.suffix == ".gguf" else folder

    def run(self, io: Io) -> Quantised:
        from layercut.quantising.job import quantise_model

        done = quantise_model(
            io.handle(self.model),
            self._remaining(io),
            self.goal,
            self.tasks,
            folder=self.run_folder,
            file=self.out if self.out is not None and self.out.suffix == ".gguf" else None,
            imatrix=self.write_imatrix,
            seed=self.seed,
            console=io.console,
            say=io.say,
        )
        if self.items is None or done.result.file is None:
            return done
        before = self._test(done, None).run(io)
        return done._replace(tested=self._test(done, before.folder).run(io))

    def _test(self, done: Quantised, against: Path | None) -> EvalVerb:
        """The test of MODEL, or of the file against it: the same items in the same engine."""
        file = Path(done.result.file or "")
        return EvalVerb.of(
            model=self.model if against is None else self.model.replace(model=str(file), revision=None),
            tasks=tuple(task.replace(limit=self.items) for task in self.tasks.tasks),
            out=done.folder / f"test-{'original' if against is None else file.stem}-{self.items}",
            against=against,
            seed=self.seed,
        )

    def _remaining(self, io: Io) -> ModelHandle | None:
        """What a plan leaves of the model, written by ``cut`` once; None where nothing is removed."""
        from layercut.surgery.gguf import gguf_file
        from layercut.verbs.cut import CutVerb

        if self.remove is None:
            return None
        ending = "" if gguf_file(self.model.model) is None else ".gguf"
        cut = self.run_folder.with_name(f"{self.run_folder.name}-cut{ending}")
        if not cut.exists():
            CutVerb(model=self.model, remove=self.remove, out=cut, seed=self.seed).run(io)
        return ModelHandle(self.model.replace(model=str(cut), revision=None))

    def show(self, done: Quantised, io: Io) -> Shown:
        from layercut.report.elements import terminal_table
        from layercut.report.quantise import quantise_lines, quantise_tables

        tables = [*map(terminal_table, quantise_tables(done.result))]
        tasks = ",".join(task.task for task in self.tasks.tasks)
        lines = [*quantise_lines(done.result, None if done.tested else tasks)]
        data = done.result.to_dict()
        if done.tested is not None:
            tested = self._test(done, self._test(done, None).run_folder).show(done.tested, io)
            tables, lines, data = [*tables, *tested.blocks], [*lines, *tested.lines], data | {"tested": tested.data}
        return Shown(data, tables, lines, notes=done.result.notes)
