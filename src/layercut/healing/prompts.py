"""Prompts from files: one conversation a row, whatever the columns are called."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from layercut.engine.base import Message, Prompt
from layercut.errors import InputError

_SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_ANSWERS = ("output", "answer", "response", "completion")
_COLUMNS = "messages, conversations, prompt, question, or instruction (with input)"


class NamedPrompt(NamedTuple):
    """A prompt and its stable name."""

    id: str
    prompt: Prompt


class Answered(NamedTuple):
    """A prompt and the answer that its data set gives to it."""

    prompt: NamedPrompt
    answer: str
    """Empty where the row holds none."""


def read_prompts(path: Path, *, system: str | None = None, plain: bool = False) -> list[NamedPrompt]:
    """Prompts of a ``.txt`` file (one a line) or of a ``.jsonl`` / ``.json`` file, also gzipped.

    A row's columns may be ``messages`` (role, content), ``conversations`` (from, value), ``prompt``, ``question``, or
    ``instruction`` with an optional ``input``. A last turn by the assistant is left out: it is what will be generated.
    A row's ``id`` is used if it has one, otherwise a hash of the prompt. Rows that are equal throughout are kept once.

    Args:
        path: the file.
        system: a system message put before conversations that have none.
        plain: give the text as it stands instead of a conversation; only for rows of a single turn.

    Raises:
        InputError: the file cannot be read, a row has none of the columns, or two different prompts share an id.
    """
    return [found.prompt for found in read_answered(path, system=system, plain=plain)]


def read_answered(path: Path, *, system: str | None = None, plain: bool = False) -> list[Answered]:
    """The same prompts with the answers that stand beside them: the control arm of healing on the model's own answers.

    The answer is the last turn by the assistant in ``messages`` and ``conversations``, else the column ``output``,
    ``answer``, ``response`` or ``completion``. Of rows that ask the same the first one's answer counts.
    """
    found: dict[str, Answered] = {}
    for number, row in _rows(Path(path)):
        turns, answer = _turns(row, f"{path}, row {number}")
        named = _named(row, turns, system, plain, f"{path}, row {number}")
        other = found.setdefault(named.id, Answered(named, answer))
        if other.prompt != named:
            raise InputError(
                f"{path}, row {number}: the id {named.id!r} belongs to another prompt already; ids must differ."
            )
    if not found:
        raise InputError(f"{path} holds no prompts; write one a line, or JSON lines with {_COLUMNS}.")
    return list(found.values())


def one_prompt(text: str, *, system: str | None = None, plain: bool = False) -> NamedPrompt:
    """A prompt given on the command line."""
    return _named({}, [Message("user", text)], system, plain, "the prompt")


def _named(row: Mapping[str, Any], turns: list[Message], system: str | None, plain: bool, where: str) -> NamedPrompt:
    prompt: Prompt
    if plain:
        if len(turns) != 1 or system:
            raise InputError(f"{where}: a conversation cannot be given as plain text; leave out --plain.")
        prompt = turns[0].content
    else:
        if system and turns[0].role != "system":
            turns = [Message("system", system), *turns]
        prompt = tuple(turns)
    content = hashlib.sha256(json.dumps(prompt, ensure_ascii=False).encode()).hexdigest()[:16]
    return NamedPrompt(str(row.get("id", content)), prompt)


def _turns(row: Mapping[str, Any], where: str) -> tuple[list[Message], str]:
    """The turns to be answered, and the answer that the row gives."""
    turns: list[Message]
    answer = next((row[key] for key in _ANSWERS if isinstance(row.get(key), str)), "")
    if isinstance(row.get("messages"), list):
        turns = [_turn(turn, "role", "content", where) for turn in row["messages"]]
    elif isinstance(row.get("conversations"), list):
        turns = [_turn(turn, "from", "value", where) for turn in row["conversations"]]
    elif isinstance(row.get("instruction"), str):
        extra = row.get("input") or ""
        turns = [Message("user", f"{row['instruction']}\n\n{extra}" if extra else row["instruction"])]
    else:
        text = next((row[key] for key in ("prompt", "question") if isinstance(row.get(key), str)), None)
        if text is None:
            raise InputError(
                f"{where}: none of the columns {_COLUMNS} is here; it has {', '.join(map(str, row)) or 'none'}."
            )
        turns = [Message("user", text)]
    while turns and turns[-1].role == "assistant":
        answer = turns.pop().content
    if not turns or not turns[-1].content.strip():
        raise InputError(f"{where}: there is nothing to answer; the last turn must be the user's and hold text.")
    return turns, answer


def _turn(turn: Any, role: str, content: str, where: str) -> Message:
    if not isinstance(turn, dict) or not isinstance(turn.get(content), str) or turn.get(role) not in _SHAREGPT:
        raise InputError(
            f"{where}: a turn needs {role!r} (user, assistant or system) and {content!r} (text), not {turn!r:.80}."
        )
    return Message(_SHAREGPT[turn[role]], turn[content])


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    text = _read(path)
    suffix = path.suffixes[-2] if path.suffix == ".gz" and len(path.suffixes) > 1 else path.suffix
    if suffix == ".txt":
        yield from ((number, {"prompt": line}) for number, line in enumerate(text.splitlines(), 1) if line.strip())
        return
    if suffix not in (".jsonl", ".json"):
        raise InputError(
            f"{path}: prompts are read from .txt, .jsonl and .json files (also .gz), not {suffix or 'this kind'}."
        )
    if suffix == ".json":
        rows = _parse(text, f"{path}")
        if not isinstance(rows, list):
            raise InputError(f"{path}: a list of rows was expected.")
    else:
        rows = [
            _parse(line, f"{path}, row {number}") for number, line in enumerate(text.splitlines(), 1) if line.strip()
        ]
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise InputError(f"{path}, row {number}: a JSON object was expected, not {row!r:.60}.")
        yield number, row


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except OSError as error:
        raise InputError(f"{path}: no prompts can be read here ({error.strerror or error}).") from error
    except (EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: damaged, or not UTF-8 text ({error}).") from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error}).") from error
