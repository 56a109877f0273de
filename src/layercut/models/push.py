"""Push a checkpoint to the Hugging Face hub with its card, results and plan; reports hold questions and stay."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from layercut.errors import InputError, one_line
from layercut.runs.directory import check_folder
from layercut.runs.disk import size_text
from layercut.runs.environment import shown_path
from layercut.runs.healing import CHECKPOINT
from layercut.runs.prune import MODEL, RESULT, PruneResult
from layercut.text import count_of

CARD = "README.md"
EVIDENCE = f"evidence/{RESULT}"
SECONDS = 120.0  # longest wait for the hub to answer; its own library waits without end
_KINDS = re.compile(
    r"(additional_chat_templates/)?[^./][^/]*\."
    r"(bpe|codes|jinja|jpe?g|jsonl?|md|model(\.v\d+)?|pdf|png|py|safetensors|spm|svg|tiktoken|txt|vocab|ya?ml)"
    r"|(COPYING|LICEN[CS]E|NOTICE|USE_POLICY)[^./]*",
    re.IGNORECASE,
)
"""Names of what layercut writes or copies into a model folder."""
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Upload:
    """Files and card to upload."""

    repo: str
    checkpoint: Path
    card: str  # the model card with the hub's metadata
    result: PruneResult | None  # of the run that made the checkpoint, where it was one of prune

    @cached_property
    def texts(self) -> dict[str, str]:
        """What is made for the hub, by name: the card, and the evidence of a prune."""
        evidence = {} if self.result is None else {EVIDENCE: self.result.model_dump_json(indent=1)}
        return {CARD: self.card, **evidence}

    def files(self) -> Iterator[tuple[str, int]]:
        """Names in the repository, with their bytes. Raises InputError: a link, or a file that is none of a model."""
        for file in sorted(self.checkpoint.rglob("*")):
            name = file.relative_to(self.checkpoint).as_posix()
            if file.is_symlink() or not (file.is_dir() or _KINDS.fullmatch(name)):
                what = "a link" if file.is_symlink() else "no file that layercut puts into a model folder"
                raise InputError(f"{shown_path(file)} is {what}; move it away, or push with `hf upload`.")
            if file.is_file() and name != CARD:
                yield name, file.stat().st_size
        yield from ((name, len(text.encode())) for name, text in self.texts.items())

    def to_dict(self) -> dict[str, Any]:
        return {"repo": self.repo, "files": dict(self.files()), "card": self.card}

    def lines(self) -> list[str]:
        files = list(self.files())
        total = f"{count_of(len(files), 'file')}, {size_text(sum(count for _, count in files))}"
        return [*(f"{name}: {size_text(count)}" for name, count in files), total]


def prepare_upload(folder: Path, repo: str) -> Upload:
    """What ``upload_checkpoint`` uploads to ``user/name``, of a run of prune or heal, or a checkpoint."""
    check_folder(folder)
    if not _REPO.fullmatch(repo):
        raise InputError(f"{repo!r:.60} is no name of a repository on the hub; write user/name.")
    places = (folder / MODEL, folder / CHECKPOINT, folder)
    checkpoint = next((place for place in places if (place / "config.json").is_file()), None)
    if checkpoint is None:
        raise InputError(f"{shown_path(folder)} holds no checkpoint; give the folder of a prune, a heal or a cut.")
    if not (checkpoint / CARD).is_file():
        raise InputError(
            f"{shown_path(checkpoint)} has no {CARD}, so layercut did not write it; push it with `hf upload`."
        )
    result = PruneResult.load(folder) if (folder / RESULT).is_file() and checkpoint == folder / MODEL else None
    try:
        card = _card(checkpoint / CARD, repo, result)
    except InputError:
        raise
    except Exception as error:  # huggingface_hub and PyYAML raise all kinds on what people write there
        raise InputError(
            f"{shown_path(checkpoint / CARD)}: mend the lines between its --- ({one_line(error)})."
        ) from error
    upload = Upload(repo, checkpoint, card, result)
    list(upload.files())
    return upload


def upload_checkpoint(upload: Upload, *, private: bool = False) -> str:
    """Create the repository, if it is not there, and upload in one commit; gives its address."""
    from huggingface_hub import CommitOperationAdd, HfApi, get_session, get_token

    api = HfApi()
    own = upload.texts
    adds = [
        CommitOperationAdd(name, own[name].encode() if name in own else str(upload.checkpoint / name))
        for name, _ in upload.files()
    ]
    session = get_session()
    waits, session.timeout = session.timeout, SECONDS
    try:
        api.create_repo(upload.repo, private=private, exist_ok=True)
        done = api.create_commit(upload.repo, adds, commit_message="Upload with layercut")
    except Exception as error:  # huggingface_hub raises all kinds: no network, no access, a refusal
        token = get_token()
        reason = one_line(Exception(str(error).replace(token, "hf_..."))) if token else one_line(error)
        raise InputError(
            f"the hub does not take {upload.repo} ({reason}). Log in with `hf auth login`, or set HF_TOKEN."
        ) from error
    finally:
        session.timeout = waits
    return str(done.repo_url)


def _card(file: Path, repo: str, result: PruneResult | None) -> str:
    from huggingface_hub import EvalResult, ModelCard

    card: Any = ModelCard.load(file)
    if result is None:
        return str(card)
    tested = next((tested for tested in result.tested if tested.name == result.chosen.name), None)
    rows = tested.kept if tested else ()
    names = {(goal.task, goal.readout): goal.metric for goal in result.goal.tasks}
    for row in rows:
        is_share = 0 <= row.uncut.value <= 1 or names.get((row.task, row.readout)) == "accuracy"
        if is_share and not 0 <= row.cut.value <= 1:
            raise InputError(f"{RESULT} scores {row.cut.value:g} on {row.task}; a score is a share from 0 to 1.")

    def interval(low: float | None, high: float | None) -> str:
        return "no interval" if low is None or high is None else f"95 % interval {low:.4g} to {high:.4g}"

    card.data.model_name = repo.rpartition("/")[2]
    card.data.eval_results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=row.task,
            dataset_name=f"{row.task} ({row.readout}), {row.cut.n} items that nothing was chosen on",
            metric_type=names.get((row.task, row.readout), "accuracy"),
            metric_value=round(row.cut.value, 4),
            metric_name=f"{interval(row.cut.low, row.cut.high)}; original model {row.uncut.value:.4g}",
        )
        for row in rows
    ] or None
    return str(card)
