"""Turn prompts into training examples: answers, filters, decontamination, equal tokens for two arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.errors import InputError
from layercut.healing.examples import (
    Data,
    TrainingExample,
    encode_example,
    fitting,
    hold_out,
    match_tokens,
    num_loss_tokens,
)
from layercut.healing.filters import ReportItems, decontaminate, filter_responses
from layercut.healing.prompt_sources import PromptGroup, TaskPrompts
from layercut.healing.prompts import AnswerRecord, plain_prompt
from layercut.healing.settings import FilterSettings, TrainSettings
from layercut.models.loading import LoadedModel
from layercut.progress import Say
from layercut.text.counting import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Material(NamedTuple):
    """What the ``options`` of a trainer may be made from."""

    cut: LoadedModel  # the pruned model, which is trained
    teacher: PreTrainedModel | None  # the original model, for objectives with a divergence
    settings: TrainSettings
    data: Data
    records: Sequence[AnswerRecord]  # the answers that the data come from
    tasks: Sequence[TaskPrompts]  # grade answers


def original_records(parts: Sequence[PromptGroup]) -> list[AnswerRecord]:
    """The data sets' own answers as records; InputError if a source gives none."""
    records = []
    for part in parts:
        answered = [record | {"finish_reason": "stop"} for record in _records(part) if record["completion"].strip()]
        if not answered:
            raise InputError(
                "these prompts come without answers of their own, so there is no original arm; give rows with an "
                "assistant turn or an output, answer, response or completion, or use `responses` self."
            )
        records += answered
    return records


def question_examples(
    parts: Sequence[PromptGroup], loaded: LoadedModel, items: ReportItems, max_length: int, say: Say
) -> tuple[list[TrainingExample], dict[str, Any]]:
    """Prompts of tasks as examples, and the counts of what was dropped; nobody has answered them.

    The completion is the task's worked solution or right answer where it has one; it is not trained on.
    """
    records = [record for part in parts for record in _records(part)]
    return _clean(records, loaded, items, max_length, "prompts", "tokens", say)


def _records(part: PromptGroup) -> list[AnswerRecord]:
    """A source's prompts with the answers that come with them, which may be empty."""
    made_of: dict[str, Any] = {"stop": list(part.task.stop), "task": part.task.task.name} if part.task else {}
    made_of |= {"begins": part.task.begins} if part.task and part.task.begins else {}
    records: list[Any] = [
        {"id": row.prompt.id, "prompt": plain_prompt(row.prompt), "completion": row.answer, **made_of}
        for row in part.answered
    ]
    return records


def examples_of(
    records: Sequence[AnswerRecord],
    loaded: LoadedModel,
    filters: FilterSettings,
    items: ReportItems,
    max_length: int,
    arm: str,
    say: Say,
) -> tuple[list[TrainingExample], dict[str, Any]]:
    """Training examples from records, and the counts of what was dropped."""
    filtered = filter_responses([_counted(record, loaded) for record in records], filters)
    say(f"{arm} answers: {filtered.describe()}")
    unit = "tokens with their prompt"
    examples, counts = _clean(filtered.records, loaded, items, max_length, f"{arm} answers", unit, say)
    dropped = {rule: count for rule, count in filtered.dropped.items() if count}
    return examples, {"answers": len(records), "dropped": dropped, **counts}


def _clean(
    records: Sequence[AnswerRecord],
    loaded: LoadedModel,
    items: ReportItems,
    max_length: int,
    what: str,
    unit: str,
    say: Say,
) -> tuple[list[TrainingExample], dict[str, Any]]:
    """Examples without report items and of at most ``max_length`` tokens, and the counts of the others."""
    clean = decontaminate(records, items)
    encoded = [encode_example(loaded.tokenizer, record, loaded.name) for record in clean.records]
    examples = fitting(encoded, max_length)
    say(f"{what}: {clean.describe()}")
    if too_long := len(encoded) - len(examples):
        say(f"{what}: {too_long} left out, longer than {max_length} {unit}")
    return examples, {"contaminated": clean.num_removed, "too_long_with_prompt": too_long}


def _counted(record: AnswerRecord, loaded: LoadedModel) -> AnswerRecord:
    """A record with the numbers of tokens of prompt and answer, which data sets do not give."""
    if "num_new_tokens" in record:
        return record
    example = encode_example(loaded.tokenizer, record, loaded.name)
    return {**record, "num_prompt_tokens": len(example.prompt), "num_new_tokens": len(example.completion)}


def matched(arms: Mapping[str, Sequence[TrainingExample]], arm: str, seed: int, say: Say) -> list[TrainingExample]:
    """One arm's examples on the prompts that all arms answer, with no more completion tokens than the smallest arm has.

    Raises InputError if no prompt has an answer in every arm.
    """
    shared = set.intersection(*({example.id for example in examples} for examples in arms.values()))
    if not shared:
        raise InputError("no prompt has both a self and an original answer, so their tokens cannot be matched.")
    common = {name: [one for one in examples if one.id in shared] for name, examples in arms.items()}
    counts = {name: num_loss_tokens(examples) for name, examples in common.items()}
    chosen = match_tokens(common[arm], min(counts.values()), seed)
    listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    say(
        f"{counted(len(shared), 'prompt')} answered in both arms, tokens: {listed}; training on "
        f"{len(chosen)} {arm} answers of {num_loss_tokens(chosen):,} tokens"
    )
    return chosen


def split(examples: Sequence[TrainingExample], settings: TrainSettings, say: Say) -> Data:
    """Examples for training and held-out examples."""
    data = hold_out(examples, settings.held_out, settings.seed)
    what = f"{counted(len(data.train), 'example')} with {counted(data.num_tokens, 'answer token')}"
    if settings.is_graded:
        what = f"{counted(len(data.train), 'prompt')}, {settings.group} answers to each at a time"
    say(f"training on {what}, {len(data.held_out)} held out (data {data.hash})")
    return data
