"""``compare``, ``report``, ``push``, ``plan-size``, ``ls``, ``env``: of finished runs, or of none."""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from layercut.base_settings import Share
from layercut.errors import InputError
from layercut.evidence.comparison import ComparisonRow, Margin
from layercut.models.push import Upload, prepare_upload, upload_checkpoint
from layercut.runs.directory import find_run_folders
from layercut.verbs import fields
from layercut.verbs.base import Flag, Io, Shown, Verb

_RUN = Flag("RUN", argument=True)


class Compared(NamedTuple):
    """Two runs, compared."""

    rows: list[ComparisonRow]
    notes: list[str]


class CompareVerb(Verb):
    """Compare two runs item by item: is one better, or as good within a margin?

    Two runs of layercut, or two logs of lm-eval (samples_*.jsonl or their folder), inspect_ai (.eval or their folder)
    or EvalPlus (*_eval_results.json), of any models. The items must be the same, and of runs the decoding. Of two
    models on this disk, the layers that the second lost are named.

    With --margin the exit code is 1 where a score is shown to be worse by more than the margin.

    Example: layercut compare examples/compare_logs/original examples/compare_logs/without_25 --margin 2
    """

    VERB = "compare"
    POSITIONAL = ("first", "second")
    RETURNS = (
        "A row for each task, readout and metric, then those of lm-eval's groups; uncut of a row is the first run, cut "
        "the second, by_margin its verdict."
    )

    first: Annotated[Path, _RUN] = Field(
        description="A run: of a study's plan, or of an eval; or a log of lm-eval, inspect_ai or EvalPlus."
    )
    second: Annotated[Path, _RUN] = Field(description="Another one, of the same items.")
    margin: Annotated[str | None, Flag("POINTS|SHARE%")] = Field(
        None,
        description="Loss that makes no difference: 2 for two points of score, 5% for a share of A's score above "
        "chance. Gives every row a verdict.",
    )
    markdown: bool = Field(False, description="Print Markdown, for a pull request.")
    page: Annotated[Path | None, Flag("FILE")] = Field(
        None, description="Write a page for a browser, with both answers to every item."
    )
    seed: fields.RandomSeed = 0

    def check(self) -> None:
        if self.margin is not None:
            Margin.parse(self.margin)

    def run(self, io: Io) -> Compared:
        from layercut.evidence.two_runs import compare_in_full, comparison_notes, open_run

        runs = open_run(self.first), open_run(self.second)
        margin = None if self.margin is None else Margin.parse(self.margin)
        with runs[0].reading_once(), runs[1].reading_once():
            done = Compared(compare_in_full(*runs, margin=margin, seed=self.seed), comparison_notes(*runs))
            if self.page is not None:
                from layercut.evidence.study import StudyResults
                from layercut.report.reports import write_comparison

                study = StudyResults(runs[0], [runs[1]], done.rows, self.seed, [])
                io.say(f"page: {write_comparison(self.page, study, done.notes)}")
        return done

    def show(self, done: Compared, io: Io) -> Shown:
        from layercut.evidence.two_runs import to_dict
        from layercut.report.comparison import two_runs_markdown, two_runs_table

        data = to_dict(done.rows, done.notes)
        is_worse = any(row.by_margin and row.by_margin.verdict == "worse" for row in done.rows)
        if self.markdown:
            return Shown(data, lines=[two_runs_markdown(done.rows, done.notes)], failed=is_worse)
        return Shown(data, two_runs_table(done.rows, done.notes), failed=is_worse)

    def returned(self, done: Compared) -> list[ComparisonRow]:
        return done.rows


class ReportVerb(Verb):
    """Write the reports of a run again: HTML and Markdown.

    The page is one file that needs no network. It begins with how deep a study shows that its model can be cut for a
    use: plans are tested by lower confidence bounds in order of depth, until one does not pass; where none passes, none
    is named. Needs no model and no torch. Two evals are compared by layercut compare.

    Example: layercut report runs/quickstart --use math --keep 0.8
    """

    VERB = "report"

    folder: Annotated[Path, _RUN] = Field(
        description="Folder of a study, prune, sweep or diagnosis, or of runs of `eval`, the original's called uncut."
    )
    use: str = Field(
        "all",
        description="What plans of a study are judged for: all, classify (ranked), or math, code, summarize, chat, "
        "copy (written).",
    )
    keep: Share | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of the score above chance that they have to keep on every task of the use; 0.9 if left out.",
    )

    def run(self, io: Io) -> dict[str, Path]:
        from layercut.report.reports import write_reports

        return write_reports(self.folder, use=self.use, keep=self.keep)

    def show(self, done: dict[str, Path], io: Io) -> Shown:
        data = {name: str(path) for name, path in done.items()}
        return Shown(data, lines=[f"{name}: {path}" for name, path in data.items()])


class PlanSizeVerb(Verb):
    """Say how many items are needed to see a loss.

    Both models answer the same items. The test is McNemar's exact one; items that share a context count for less.

    Example: layercut plan-size --retention 0.9 --baseline 0.6
    """

    VERB = "plan-size"

    baseline: Share = Field(ge=0, le=1, description="Expected score of the original model, a share: 0.6.")
    retention: Share = Field(
        ge=0, le=2, description="Share of the score above chance that the pruned model is expected to keep."
    )
    chance: Share = Field(0.0, ge=0, le=1, description="Score of guessing.")
    comparisons: int = Field(1, ge=1, description="How many comparisons are judged together, plans times tasks (Holm).")

    def run(self, io: Io) -> Any:
        from layercut.evidence.sample_size import expect_outcomes, items_needed

        outcomes = expect_outcomes(baseline=self.baseline, retention=self.retention, chance=self.chance)
        return outcomes, items_needed(outcomes, comparisons=self.comparisons)

    def show(self, done: Any, io: Io) -> Shown:
        outcomes, items = done
        data = {**self.model_dump(), "cut": outcomes.both + outcomes.gained, "outcomes": outcomes._asdict()}
        line = (
            f"{items:,} items show the difference with a power of 80 % at 0.05 (McNemar's exact test), if "
            f"{100 * outcomes.lost:.3g} % of them are lost and {100 * outcomes.gained:.3g} % gained (assumed)"
        )
        return Shown(data | {"items": items}, lines=[line])


class LsVerb(Verb):
    """List runs with their state, and what killed writes left; or the models in the cache.

    The cache holds converted GGUF files, in LAYERCUT_CACHE or ~/.cache/layercut. Beyond LAYERCUT_CACHE_GIB (30), those
    that were used longest ago are removed.

    Example: layercut ls runs
    """

    VERB = "ls"

    root: Annotated[Path, Flag("DIR", argument=True)] = Field(Path("runs"), description="Folder to look in.")
    cache: bool = Field(False, description="List the models in the cache in place of runs.")
    empty: bool = Field(False, description="With --cache: remove all that no process uses.")

    def check(self) -> None:
        if self.empty and not self.cache:
            raise InputError("`empty` removes models of the cache; say `cache` too.")

    def run(self, io: Io) -> Any:
        from layercut.models.cache import list_cache, trim_cache
        from layercut.runs.lock import find_leftovers

        if self.cache:
            return (trim_cache(0) if self.empty else []), list_cache()
        return find_run_folders(self.root), find_leftovers(self.root)

    def show(self, done: Any, io: Io) -> Shown:
        from layercut.models.cache import cache_dir
        from layercut.report.runs import table_of_runs
        from layercut.runs.disk import size_text

        runs, left = done
        if self.cache:
            lines = [
                f"{size_text(entry.num_bytes):>8}  {datetime.fromtimestamp(entry.used):%Y-%m-%d %H:%M}  "
                f"{entry.path.parent.name}/{entry.path.name}{'  in use' if entry.is_in_use else ''}"
                for entry in left
            ]
            total = f"{size_text(sum(entry.num_bytes for entry in left))} in {cache_dir()}"
            data = [entry._asdict() | {"path": str(entry.path)} for entry in left]
            return Shown(data, lines=[*lines, total])
        notes = [f"left by a killed process: {part.path} ({size_text(part.num_bytes)})" for part in left]
        if left:
            total = size_text(sum(part.num_bytes for part in left))
            notes.append(f"{total} in all. Their writers are gone, so they can be removed.")
        if not runs:
            notes.insert(0, f"no runs in {self.root}; `layercut run examples/quickstart.yaml` makes one.")
        return Shown([run.to_dict() for run in runs], [table_of_runs(runs)] if runs else [], notes=notes)


class EnvVerb(Verb):
    """Print versions, machine and devices, for a bug report.

    Example: layercut env
    """

    VERB = "env"

    def run(self, io: Io) -> dict[str, Any]:
        import torch  # noqa: F401  so that devices are listed

        from layercut.runs.environment import collect_environment
        from layercut.sandbox.runner import describe_or_why_not

        return collect_environment() | {"sandbox": describe_or_why_not()}

    def show(self, done: dict[str, Any], io: Io) -> Shown:
        pairs = (
            {f"{key}.{name}": entry for name, entry in value.items()} if isinstance(value, dict) else {key: value}
            for key, value in done.items()
        )
        return Shown(done, lines=[f"{key}: {value}" for pair in pairs for key, value in pair.items()])


class PushVerb(Verb):
    """Push a checkpoint to the Hugging Face hub, with its evidence.

    The model card gets the hub's metadata: base model, licence, tags, and the score of each task on report items. The
    plan and result.json go along; reports stay here, because they hold questions of data sets. One commit. Log in
    first: hf auth login.

    Example: layercut push runs/copy me/smollm2-small --dry-run
    """

    VERB = "push"
    POSITIONAL = ("folder", "repo")
    RETURNS = "Address of the repository."

    folder: Annotated[Path, Flag("RUN", argument=True)] = Field(
        description="Folder of a prune or a heal, or a checkpoint that layercut wrote."
    )
    repo: Annotated[str, Flag("REPO", argument=True)] = Field(description="user/name; created if it is not there.")
    private: bool = Field(False, description="Create the repository as a private one.")

    @cached_property
    def upload(self) -> Upload:
        """Files and card to upload. Raises InputError: nothing that can be."""
        return prepare_upload(self.folder, self.repo)

    def run(self, io: Io) -> str:
        return upload_checkpoint(self.upload, private=self.private)

    def rehearse(self, io: Io) -> Shown:
        return self._shown("dry run: nothing was uploaded")

    def show(self, done: str, io: Io) -> Shown:
        return self._shown(f"uploaded: {done}")

    def _shown(self, last: str) -> Shown:
        front = self.upload.card.partition("---\n")[2].partition("---\n")[0].rstrip()
        return Shown(self.upload.to_dict(), lines=[*self.upload.lines(), "card metadata:", front, last])
