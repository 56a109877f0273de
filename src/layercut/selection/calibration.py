"""Text that criteria are measured on: written by the original model itself, from a local file, or from the hub.

calibration = load_calibration("generated", loaded, engine=engine)
calibration = load_calibration("notes.txt", loaded, max_tokens=256)
calibration = load_calibration("hub:Salesforce/wikitext:wikitext-2-raw-v1:train", loaded)
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.engine.base import Decoding, Engine, GenerationRequest
from layercut.engine.prompts import encode_prompt
from layercut.errors import InputError
from layercut.progress import Progress, silent
from layercut.runs.environment import hide_home
from layercut.runs.settings import settings_hash
from layercut.selection.search_journal import JournalQuestion, SearchJournal
from layercut.surgery.plan import CutPlan
from layercut.tasks.data_files import read_local, read_whole
from layercut.tasks.hub_rows import HUB, hub_rows

if TYPE_CHECKING:
    from layercut.engine.rows import Reader
    from layercut.runs.directory import RunFolder

BUILT_IN = "generated"
"""Name of the text that the original model writes."""
COLUMNS = ("text", "content")
MIN_TOKENS = 8
_VERSION = 1
"""Raised by any change of how text is generated; the openings count by their hash."""
_STAGE, _STAGES = 64, 3
"""Tokens that a text grows by before it is kept, or a third of the longest where that is more."""
_CHARACTERS = 24
"""Of a token at most, more or less: a longer text is not tokenised as a whole, only to be cut."""


CALIBRATION_PROMPTS = (
    "The river rises in the hills and",
    "In the first half of the last century,",
    "To repair a bicycle tyre, begin by",
    "The committee met on Tuesday to discuss",
    "A cell is",
    '"I did not expect to see you here," she said,',
    "There are several reasons why people",
    "def read_lines(path):\n",
    "The price of wheat depends on",
    "When the train stopped, the passengers",
    "Question: Why is the sky blue?\nAnswer:",
    "Ingredients:\n- 200 g flour\n-",
    "A triangle has three sides. If",
    "The museum is open from",
    "Dear Sir or Madam,\n\n",
    "Most birds",
    "The new version of the program",
    "Once, in a small village near the sea,",
    "According to the report,",
    "The difference between weather and climate is",
    "Step 1:",
    "My grandmother used to say that",
    "Water boils at",
    "The team won the match because",
)
"""Short neutral openings from which a model writes its own calibration text: prose, facts, instructions, talk, code."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Texts, and where they come from."""

    texts: tuple[str, ...]
    num_tokens: int
    """In all texts, in the model's tokens, a BOS token that the tokenizer adds included."""
    source: str
    """``generated``, the path of the file, or ``hub:...``."""
    content_hash: str
    """SHA-256 of the texts in their order, in hex."""


class _Piece(NamedTuple):
    text: str
    num_tokens: int


def load_calibration(
    source: str,
    loaded: Reader,
    *,
    engine: Engine | None = None,
    num_texts: int = 32,
    max_tokens: int = 512,
    seed: int = 0,
    folder: RunFolder | None = None,
    progress: Progress = silent,
) -> Calibration:
    """The first texts of a source, each cut to what the model reads at once. The same call gives the same texts.

    ``generated``: the original model goes on from short neutral openings, one text an opening and then the openings
    again, sampled at temperature 1 from its whole vocabulary. Needs no data and no network, and suits the model by
    construction. A text ends where the model ends it.

    A local file: ``.jsonl``, ``.json`` or ``.parquet`` rows with a column ``text`` or ``content``, one text a row,
    whose end is left out where it is too long; or ``.txt``, one running text that is cut into consecutive pieces. Lines
    may be gzipped (``.jsonl.gz``, ``.txt.gz``). Blank texts are left out.

    ``hub:NAME[:config[:split]]``: a data set of the hub, streamed, with the same columns; the split is ``train`` if
    left out.

    Args:
        source: one of the three.
        loaded: the original model, whose tokenizer counts.
        engine: writes the text; only for ``generated``.
        num_texts: as many, or fewer if there are no more.
        max_tokens: of a text; less where the model's context is shorter.
        seed: of what is generated; no effect on the others.
        folder: keeps what was generated, so that it is not generated again.
        progress: told how many texts are there.

    Raises:
        InputError: a number that is too small, a source that is not there, is damaged or holds no text, or no engine.
        MissingExtra: a hub data set and no ``datasets``.
    """
    if num_texts < 1:
        raise InputError(f"num_texts of the calibration is {num_texts}; use 1 or more.")
    if max_tokens < MIN_TOKENS:
        raise InputError(f"max_tokens of the calibration is {max_tokens}; use {MIN_TOKENS} or more.")
    max_tokens = min(max_tokens, loaded.context_length or max_tokens)
    texts: Iterator[str] | list[str]
    if source == BUILT_IN:
        if engine is None:
            raise InputError("the model writes its own calibration text, and there is no engine to run it; give one.")
        texts = _generated(loaded, engine, num_texts, max_tokens, seed, folder, progress)
    elif source.startswith(HUB):
        texts = (_text_of(row.fields, row.where) for row in hub_rows(source, extra="lm-eval"))
    elif source.endswith((".txt", ".txt.gz")):
        texts = _consecutive(loaded, _read(Path(source).expanduser()), max_tokens)
    else:
        texts = _local(source)
    pieces = list(islice((_cut(loaded, text, max_tokens) for text in texts if text.strip()), num_texts))
    if not pieces:
        raise InputError(f"{source} holds no text; give rows with a column {' or '.join(COLUMNS)}, or a .txt file.")
    return Calibration(
        texts=tuple(piece.text for piece in pieces),
        num_tokens=sum(piece.num_tokens for piece in pieces),
        source=hide_home(source),
        content_hash=_hash([piece.text for piece in pieces]),
    )


def _cut(loaded: Reader, text: str, max_tokens: int) -> _Piece:
    """The longest beginning of a text with at most so many tokens."""

    def count(length: int) -> int:
        return len(encode_prompt(loaded.tokenizer, text[:length], loaded.name))

    end = min(len(text), max_tokens * _CHARACTERS)
    if (num_tokens := count(end)) > max_tokens:
        # Found by halving, because not every tokenizer says where its tokens end. A character is a few tokens at most.
        end = max(1, bisect_right(range(end), max_tokens, key=count) - 1)
        num_tokens = count(end)
    return _Piece(text[:end], num_tokens)


def _consecutive(loaded: Reader, text: str, max_tokens: int) -> Iterator[str]:
    start = 0
    while start < len(text):
        window = text[start : start + max_tokens * _CHARACTERS]
        piece = _cut(loaded, window, max_tokens).text
        yield piece
        start += len(piece)


def _generated(
    loaded: Reader,
    engine: Engine,
    num_texts: int,
    max_tokens: int,
    seed: int,
    folder: RunFolder | None,
    progress: Progress,
) -> list[str]:
    """Texts in stages: what was written of a text is kept, and is the draft of a longer one.

    So a run that is stopped loses a stage at most, and a batch of long texts is heard of before it ends. Engines that
    take no drafts write the beginnings again.
    """
    decoding = Decoding(temperature=1.0, seed=seed)
    openings = [CALIBRATION_PROMPTS[index % len(CALIBRATION_PROMPTS)] for index in range(num_texts)]
    names = [f"text {index}" for index in range(num_texts)]
    rooms = [max(1, max_tokens - len(encode_prompt(loaded.tokenizer, one, loaded.name))) for one in openings]
    uncut = CutPlan(num_layers=engine.num_layers)

    def question(most: int | None) -> JournalQuestion:
        stage = {} if most is None else {"most": most}
        return JournalQuestion(
            task="calibration",
            readout=BUILT_IN,
            model_hash=engine.describe()["model_hash"],
            version=_VERSION,
            settings_hash=settings_hash({"openings": _hash(openings), "max_tokens": max_tokens, **stage}),
            decoding=asdict(decoding),
        )

    with SearchJournal(folder) as journal:
        part = journal.part(question(None), uncut, names)
        step = max(_STAGE, max_tokens // _STAGES)
        stages: list[int | None] = [] if part.is_complete else [*range(step, max(rooms), step), None]
        drafts, reached = [""] * num_texts, 0
        for most in stages:
            limits = [room if most is None else min(room, most) for room in rooms]
            part = journal.part(question(most), uncut, names)
            requests = [
                GenerationRequest(id=name, prompt=opening, max_new_tokens=limit, draft=draft)
                for name, opening, limit, draft in zip(names, openings, limits, drafts, strict=True)
            ]
            known = {record["id"] for record in part.records}

            def tell(known: set[str], limits: Sequence[int], before: int) -> None:
                done = [limit if name in known else before for name, limit in zip(names, limits, strict=True)]
                progress("tokens of calibration text", sum(map(min, done, rooms)), sum(rooms))

            tell(known, limits, reached)
            if not part.is_complete:
                for batch in engine.completions(requests, uncut, decoding, frozenset(known)):
                    part.append([{"id": answer.id, "completion": answer.text} for answer in batch])
                    tell(known := {record["id"] for record in part.records}, limits, reached)
            drafts, reached = [record["completion"] for record in part.records], most or reached
        return [opening + record["completion"] for opening, record in zip(openings, part.records, strict=True)]


def _local(source: str) -> Iterator[str]:
    splits = read_local(source).splits
    if len(splits) > 1:
        raise InputError(f"{source} is a folder with {' and '.join(splits)}; name one of its files.")
    for rows in splits.values():
        for row in rows:
            yield _text_of(row.fields, row.where)


def _text_of(fields: Mapping[str, Any], where: str) -> str:
    for column in COLUMNS:
        if isinstance(value := fields.get(column), str):
            return value
    columns = ", ".join(map(str, fields)) or "none"
    raise InputError(f"{where}: no text in a column {' or '.join(COLUMNS)}; it has {columns}. Rename the column.")


def _read(path: Path) -> str:
    try:
        return read_whole(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: damaged, or not UTF-8 text ({error}). Get the file again.") from error
    except OSError as error:
        raise InputError(
            f"{path}: no calibration text can be read here ({error.strerror}). Give a file, hub:NAME or {BUILT_IN}."
        ) from error


def _hash(texts: list[str]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()
