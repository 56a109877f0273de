"""Read prompts from rows of data sets: one conversation a row, under any common column names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

from layercut.engine.base import FinishReason, Message, Prompt
from layercut.errors import InputError
from layercut.runs.json_text import parse
from layercut.tasks.data_files import DataRow, read_rows, read_text

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_TURNS = ("messages", "conversations", "prompt")  # columns that may hold turns
_TEXTS = ("prompt", "question")
_ANSWERS = ("output", "answer", "response", "completion")
_COLUMNS = "messages, conversations, prompt, question, or instruction (with input)"


class NamedPrompt(NamedTuple):
    """A prompt and its stable name."""

    id: str
    prompt: Prompt


class PromptWithAnswer(NamedTuple):
    """A prompt and its data set's answer."""

    prompt: NamedPrompt
    answer: str


class AnswerRecord(TypedDict):
    """One answer to a prompt: a line of ``responses.jsonl``, or a data set's own answer."""

    id: str
    prompt: str | list[dict[str, str]]
    completion: str
    finish_reason: NotRequired[FinishReason]
    num_prompt_tokens: NotRequired[int]
    num_new_tokens: NotRequired[int]
    seed: NotRequired[int]
    model_hash: NotRequired[str]
    """Of the model that answered."""
    removed: NotRequired[list[int]]
    """Layers that it was without."""
    channels: NotRequired[str]
    """Key of its MLP channels, where some were missing."""
    stop: NotRequired[list[str]]
    """Strings that ended the answer."""
    begins: NotRequired[str]
    """The beginning that all answers share."""
    task: NotRequired[str]
    source: NotRequired[str]
    """File or data set of the prompt, where it is no task's."""
    right: NotRequired[bool]


def read_answered(
    path: Path, *, system: str | None = None, plain: bool = False, limit: int | None = None
) -> list[PromptWithAnswer]:
    """Prompts of a ``.txt`` file (one a line), ``.jsonl``, ``.json``, ``.csv`` (all also gzipped) or ``.parquet`` file.

    For arguments and errors see ``answered_in``.
    """
    return answered_in(_rows(Path(path)), str(path), system=system, plain=plain, limit=limit)


def answered_in(
    rows: Iterable[DataRow],
    source: str,
    *,
    system: str | None = None,
    plain: bool = False,
    limit: int | None = None,
    left_out: list[str] | None = None,
) -> list[PromptWithAnswer]:
    """The prompts of rows, with the answers in the same rows.

    A row's columns may be ``messages`` or ``conversations`` (turns with role and content, or from and value),
    ``prompt`` (text or turns), ``question``, or ``instruction`` with an optional ``input`` (of several ``instances``,
    the first). The whole conversation is kept, except a last turn by the assistant: that is the row's own answer; else
    the answer is the column ``output``, ``answer``, ``response`` or ``completion``. A column ``system`` goes before a
    conversation that has no system message. The id is the row's ``id``, or else a hash of the prompt. Of rows with the
    same prompt the first counts.

    Args:
        rows: read no further than needed.
        source: name of the source, for messages.
        system: a system message put before conversations that have none.
        plain: give the text unchanged instead of a conversation; only for rows of a single turn.
        limit: at most this many prompts.
        left_out: collects why rows cannot be asked, for data that the user cannot repair; without it, the first such
            row is an error.

    Raises:
        InputError: a row has none of the columns, two different prompts share an id, or nothing can be asked.
    """
    by_id: dict[str, PromptWithAnswer] = {}
    for row in rows:
        if limit is not None and len(by_id) >= limit:
            break
        try:
            turns, answer = _turns(row)
            named = _named(row.fields, turns, system, plain, row.where)
            if by_id.setdefault(named.id, PromptWithAnswer(named, answer)).prompt != named:
                raise InputError(
                    f"{row.where}: the id {named.id!r} belongs to another prompt already; ids must differ."
                )
        except InputError as error:
            if left_out is None:
                raise
            left_out.append(str(error))
    if not by_id:
        reason = f" ({left_out[0]})" if left_out else ""
        raise InputError(f"{source} holds no prompts{reason}; write one a line, or rows with {_COLUMNS}.")
    return list(by_id.values())


def one_prompt(text: str, *, system: str | None = None, plain: bool = False) -> NamedPrompt:
    """A prompt given on the command line."""
    return _named({}, [Message("user", text)], system, plain, "the prompt")


def _named(row: Mapping[str, Any], turns: list[Message], system: str | None, plain: bool, where: str) -> NamedPrompt:
    prompt: Prompt
    if plain:
        if len(turns) != 1 or system:
            raise InputError(f"{where}: a conversation cannot be given as plain text; leave out `plain`.")
        prompt = turns[0].content
    else:
        if system and turns[0].role != "system":
            turns = [Message("system", system), *turns]
        prompt = tuple(turns)
    content = hashlib.sha256(json.dumps(prompt, ensure_ascii=False).encode()).hexdigest()[:16]
    own = row.get("id")
    return NamedPrompt(content if own in (None, "") else str(own), prompt)


def _turns(row: DataRow) -> tuple[list[Message], str]:
    """The turns to be answered, and the row's own answer."""
    fields, where = row.fields, row.where
    if isinstance(instances := fields.get("instances"), list) and instances and isinstance(instances[0], dict):
        fields = {**fields, **instances[0]}
    answer = next((fields[key] for key in _ANSWERS if isinstance(fields.get(key), str)), "")
    if isinstance(given := fields.get("completion"), list) and given:
        answer = _turn(given[-1], where).content
    lists = (_listed(fields.get(key), as_json=key not in _TEXTS) for key in _TURNS)
    listed = next((found for found in lists if found is not None), None)
    if listed is not None:
        turns = [_turn(turn, where) for turn in listed]
    elif isinstance(fields.get("instruction"), str):
        extra = fields.get("input") or ""
        turns = [Message("user", f"{fields['instruction']}\n\n{extra}" if extra else fields["instruction"])]
    else:
        text = next((fields[key] for key in _TEXTS if isinstance(fields.get(key), str)), None)
        if text is None:
            raise InputError(
                f"{where}: none of the columns {_COLUMNS} is here; it has {', '.join(map(str, fields)) or 'none'}."
            )
        turns = [Message("user", text)]
    if isinstance(system := fields.get("system"), str) and system.strip() and turns and turns[0].role != "system":
        turns = [Message("system", system), *turns]
    while turns and turns[-1].role == "assistant":
        answer = turns.pop().content
    if not turns or turns[-1].role != "user" or not turns[-1].content.strip():
        raise InputError(f"{where}: the last turn must be the user's and hold text.")
    return turns, answer


def _listed(value: Any, *, as_json: bool) -> list[Any] | None:
    """A list of turns, which a CSV file holds as JSON; None for any other value."""
    if as_json and isinstance(value, str):
        try:
            value = parse(value)
        except ValueError:
            return None
    return value if isinstance(value, list) else None


def _turn(turn: Any, where: str) -> Message:
    turn = turn if isinstance(turn, dict) else {"content": turn}
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str) or role not in _ROLES:
        raise InputError(
            f"{where}: a turn needs 'role' (user, assistant or system) and 'content' (text), or 'from' and 'value', "
            f"not {turn!r:.80}."
        )
    return Message(_ROLES[role], content)


def _rows(path: Path) -> Iterator[DataRow]:
    if not path.name.endswith((".txt", ".txt.gz")):
        return read_rows(path)
    lines = enumerate(read_text(path, "prompts").splitlines(), 1)
    return (DataRow(f"{path}, line {number}", {"prompt": line}) for number, line in lines if line.strip())


def plain_prompt(named: NamedPrompt) -> str | list[dict[str, str]]:
    """A prompt as records hold it."""
    return named.prompt if isinstance(named.prompt, str) else [turn._asdict() for turn in named.prompt]


def record_prompt(record: AnswerRecord) -> Prompt:
    """The prompt of a record of ``responses.jsonl``, as an engine takes it."""
    prompt = record["prompt"]
    return prompt if isinstance(prompt, str) else tuple(Message(turn["role"], turn["content"]) for turn in prompt)
