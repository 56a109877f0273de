"""Read prompts from rows of data sets: one conversation a row, under any common column names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NotRequired, TypedDict

from layercut.engine.base import FinishReason, Message, Prompt
from layercut.errors import InputError
from layercut.tasks.data_files import DataRow, read_rows_of_file, read_text

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_TURNS = ("messages", "conversations", "prompt")  # columns that may hold turns
_TEXTS = ("prompt", "question")
_ANSWERS = ("output", "answer", "response", "completion")
_COLUMNS = "messages, conversations, prompt, question, or instruction (with input)"


class NamedPrompt(NamedTuple):
    """A prompt, its stable name, and the answer that its data set gives, empty without one."""

    id: str
    prompt: Prompt
    answer: str = ""


class AnswerRecord(TypedDict):
    """One answer to a prompt: a line of ``responses.jsonl``, or a data set's own answer."""

    id: str
    prompt: str | list[dict[str, str]]
    completion: str
    finish_reason: NotRequired[FinishReason]
    num_prompt_tokens: NotRequired[int]
    num_new_tokens: NotRequired[int]
    seed: NotRequired[int]
    model_hash: NotRequired[str]  # of the model that answered
    removed: NotRequired[list[int]]  # layers that it was without
    channels: NotRequired[str]  # key of its MLP channels, where some were missing
    stop: NotRequired[list[str]]  # strings that ended the answer
    begins: NotRequired[str]  # the beginning that all answers share
    task: NotRequired[str]
    source: NotRequired[str]  # file or data set of the prompt, where it is no task's
    right: NotRequired[bool]


def read_prompts(
    path: Path, *, system: str | None = None, plain: bool = False, limit: int | None = None
) -> list[NamedPrompt]:
    """Prompts of a ``.txt`` (one a line), ``.jsonl``, ``.json``, ``.csv`` or ``.parquet`` file; see ``prompts_in``."""
    rows: Iterable[DataRow]
    if path.name.endswith((".txt", ".txt.gz")):
        lines = enumerate(read_text(path, "prompts").splitlines(), 1)
        rows = (DataRow(f"{path}, line {number}", {"prompt": line}) for number, line in lines if line.strip())
    else:
        rows = read_rows_of_file(path)
    return prompts_in(rows, str(path), system=system, plain=plain, limit=limit)


def prompts_in(
    rows: Iterable[DataRow],
    source: str,
    *,
    system: str | None = None,
    plain: bool = False,
    limit: int | None = None,
    left_out: list[str] | None = None,
) -> list[NamedPrompt]:
    """The prompts of rows, with the answers in the same rows; rows are read no further than ``limit`` needs.

    A row's columns may be ``messages`` or ``conversations`` (turns with role and content, or from and value),
    ``prompt`` (text or turns), ``question``, or ``instruction`` with an optional ``input``. A last turn by the
    assistant is the row's own answer; else the column ``output``, ``answer``, ``response`` or ``completion``. The id is
    the row's ``id``, or else a hash of the prompt. Of rows with the same prompt the first counts.

    Args:
        system: a system message put before conversations that have none.
        plain: give the text unchanged instead of a conversation; only for rows of a single turn.
        left_out: collects why rows cannot be asked; without it, the first such row is an error.

    Raises InputError: a row has none of the columns, two different prompts share an id, or nothing can be asked.
    """
    by_id: dict[str, NamedPrompt] = {}
    for row in rows:
        if limit is not None and len(by_id) >= limit:
            break
        try:
            turns, answer = _conversation(row)
            named = make_prompt(turns, system=system, plain=plain, id=row.fields.get("id"), where=row.where)
            if by_id.setdefault(named.id, named._replace(answer=answer)).prompt != named.prompt:
                raise InputError(f"{row.where}: the id {named.id!r} belongs to another prompt; ids must differ.")
        except InputError as error:
            if left_out is None:
                raise
            left_out.append(str(error))
    if not by_id:
        reason = f" ({left_out[0]})" if left_out else ""
        raise InputError(f"{source} holds no prompts{reason}; write one a line, or rows with {_COLUMNS}.")
    return list(by_id.values())


def make_prompt(
    turns: str | list[Message],
    *,
    system: str | None = None,
    plain: bool = False,
    id: object = None,
    where: str = "the prompt",
) -> NamedPrompt:
    """A prompt of turns, or of one text of a user; without an ``id`` it is named by its hash."""
    turns = [Message("user", turns)] if isinstance(turns, str) else turns
    if plain and (len(turns) != 1 or system):
        raise InputError(f"{where}: a conversation cannot be given as plain text; leave out `plain`.")
    if system and turns[0].role != "system":
        turns = [Message("system", system), *turns]
    prompt: Prompt = turns[0].content if plain else tuple(turns)
    content = hashlib.sha256(json.dumps(prompt, ensure_ascii=False).encode()).hexdigest()[:16]
    return NamedPrompt(content if id in (None, "") else str(id), prompt)


def plain_prompt(prompt: Prompt) -> str | list[dict[str, str]]:
    """A prompt as records hold it."""
    return prompt if isinstance(prompt, str) else [turn._asdict() for turn in prompt]


def record_prompt(record: AnswerRecord) -> Prompt:
    """The prompt of a record of ``responses.jsonl``, as an engine takes it."""
    prompt = record["prompt"]
    return prompt if isinstance(prompt, str) else tuple(Message(turn["role"], turn["content"]) for turn in prompt)


def _conversation(row: DataRow) -> tuple[list[Message], str]:
    """The turns to be answered, and the row's own answer."""
    fields: Mapping[str, Any] = row.fields
    answer = next((fields[key] for key in _ANSWERS if isinstance(fields.get(key), str)), "")
    if isinstance(completion := fields.get("completion"), list) and completion:
        answer = _turn(completion[-1], row.where).content
    if (listed := next((fields[key] for key in _TURNS if isinstance(fields.get(key), list)), None)) is not None:
        turns = [_turn(turn, row.where) for turn in listed]
    elif isinstance(instruction := fields.get("instruction"), str):
        turns = [Message("user", f"{instruction}\n\n{fields['input']}" if fields.get("input") else instruction)]
    elif texts := [fields[key] for key in _TEXTS if isinstance(fields.get(key), str)]:
        turns = [Message("user", texts[0])]
    else:
        columns = ", ".join(map(str, fields)) or "none"
        raise InputError(f"{row.where}: none of the columns {_COLUMNS} is here; it has {columns}.")
    if isinstance(system := fields.get("system"), str) and system.strip() and turns and turns[0].role != "system":
        turns = [Message("system", system), *turns]
    while turns and turns[-1].role == "assistant":
        answer = turns.pop().content
    if not turns or turns[-1].role != "user" or not turns[-1].content.strip():
        raise InputError(f"{row.where}: the last turn must be the user's and hold text.")
    return turns, answer


def _turn(turn: Any, where: str) -> Message:
    turn = turn if isinstance(turn, dict) else {"content": turn}
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str) or role not in _ROLES:
        raise InputError(f"{where}: a turn needs 'role' and 'content', or 'from' and 'value', not {turn!r:.80}.")
    return Message(_ROLES[role], content)
