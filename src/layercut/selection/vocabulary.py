"""Choose the tokens that stay: ``vocab:ascii``, ``vocab:latin``, ``vocab:44000``, ``vocab:FILE``, ``vocab:44000+RUN``.

``ascii``: tokens of printable ASCII. ``latin``: those of Latin letters with accents as well. A file: the tokens of its
text, or of all texts in its rows (.jsonl, .csv ...). A run folder: those of its questions and of the answers that the
model wrote. A number: at most that many rows, filled up with ASCII tokens in the order of the vocabulary, which for
byte pairs is the order of their frequency. ``+`` joins them. In each case bytes, special and added tokens, tokens of
the chat template, those that a config names, and what the tokens that stay are merged from stay too, and real tokens
fill up the rows to a multiple of 64.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.errors import InputError
from layercut.models.convert import file_sha256
from layercut.models.gguf_file import read_gguf_head
from layercut.models.weights import read_config, read_object
from layercut.runs.directory import RunFolder
from layercut.surgery.channels import Vocabulary
from layercut.surgery.gguf_parts import ids_of_gguf, num_rows_of_gguf, tokens_of_gguf
from layercut.surgery.trimming import (
    ROWS_BLOCK,
    TokenTable,
    ids_in,
    multiple_of_block,
    texts_in_template,
    texts_of_template,
    tokens_of_folder,
    trim_token_files,
)
from layercut.tasks.cells import USED_TOKENS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FINE = "write vocab:ascii, vocab:latin, vocab:44000 for a number of rows, vocab:FILE for texts, or vocab:RUN"
_NUMBER = re.compile(r"\d{1,8}")
_SHARED_MARKS = "–—‘’“”…•€£°©®™×÷«»¿¡"  # punctuation that Latin scripts share, beside ASCII


def check_vocabulary(text: str) -> None:
    """Refuse what names no vocabulary. Raises InputError."""
    for part in files_named_in(text):
        if not Path(part).expanduser().exists():
            raise InputError(f"vocab:{part:.60} names no vocabulary and no file; {FINE}.")
    if sum(_NUMBER.fullmatch(part) is not None for part in text.split("+")) > 1:
        raise InputError(f"vocab:{text:.60} names two numbers of rows; write one.")


def files_named_in(text: str) -> list[str]:
    """Its parts that name a file or folder of texts, which a tokenizer has to read."""
    return [part for part in text.split("+") if part not in _CLASSES and not _NUMBER.fullmatch(part)]


def choose_vocabulary(folder: Path, text: str) -> Vocabulary:
    """The tokens of a model folder, with config.json and tokenizer.json, that stay; ``text`` names them, see the
    module. Raises InputError: no such vocabulary, one that is too small or takes nothing, or a tokenizer that cannot
    be trimmed.
    """
    check_vocabulary(text)
    tokens, config = tokens_of_folder(folder), read_config(folder)
    size = num_rows(config)
    configs = [config, *(read_object(path) for path in [folder / "generation_config.json"] if path.is_file())]
    tokenizer = _encoder(folder)
    files = [Path(part).expanduser() for part in files_named_in(text)]
    notes = [note for file in files if file.is_dir() for note in used_tokens_in(folder, file).values()]
    used = {token for note in notes for token in note["ids"]}
    required = {token for part in configs for token in ids_in(part)} | _tokens_of(tokenizer, texts_of_template(folder))
    return vocabulary_of(tokens, text, size, {token for token in required | used if token < size}, tokenizer)


def choose_vocabulary_of_gguf(file: Path, text: str) -> Vocabulary:
    """The tokens of a GGUF file that stay. Raises as ``choose_vocabulary``."""
    head = read_gguf_head(file)
    tokens, template = tokens_of_gguf(head), str(head.metadata.get("tokenizer.chat_template", ""))
    spelled = {token for part in texts_in_template(template) for token in tokens.spell(part)}
    return vocabulary_of(tokens, text, num_rows_of_gguf(head), ids_of_gguf(head) | spelled)


def vocabulary_of(
    tokens: TokenTable, text: str, size: int, required: Iterable[int], tokenizer: Tokenizer | None = None
) -> Vocabulary:
    """The same from a vocabulary that was read already; ``tokenizer`` reads the texts of a file."""
    wanted, number = set(required), None
    for part in text.split("+"):
        if _NUMBER.fullmatch(part):
            number = int(part)
        elif part in _CLASSES:
            wanted |= {token for token in tokens.texts if _CLASSES[part](tokens.bytes_of(token))}
        elif tokenizer is None:
            raise InputError(f"vocab:{part} needs a tokenizer.json, and a GGUF file has none; cut the model's folder.")
        else:
            wanted |= _tokens_of(tokenizer, texts_in_file(Path(part).expanduser()))
    stay = tokens.close(wanted) if number is None else _most(tokens, tokens.close(wanted), number)
    kept = tuple(sorted(token for token in multiple_of_block(tokens, stay) if token < size))
    if len(kept) >= size:
        raise InputError(f"vocab:{text} keeps all {size:,} rows, so nothing goes; leave it out.")
    name = "+".join(Path(part).name for part in text.split("+"))
    return Vocabulary(name=name, size=size, kept=kept)


class UsedTokens(NamedTuple):
    """How many of the tokens of a run's whole prompts and answers stay."""

    name: str  # of the task and readout
    num_used: int
    num_staying: int
    are_greedy: bool  # and the answers' own tokens are among them, so that the same tokens win at every step

    def describe(self) -> str:
        """``all 2,345 tokens of prompts and answers of gsm8k (chain) stay, so greedy answers are the same``."""
        what = f"tokens of prompts and answers of {self.name}"
        if self.num_staying == self.num_used:
            same = ", so its greedy answers are the same" if self.are_greedy else ""
            return f"all {self.num_used:,} {what} stay{same}"
        return f"{self.num_used - self.num_staying:,} of {self.num_used:,} {what} go, so some answers may differ"


class Coverage(NamedTuple):
    """How many texts the tokens that stay write as before."""

    name: str  # of the texts
    num_texts: int
    num_same: int  # the very same tokens
    tokens_before: int
    tokens_after: int

    def describe(self) -> str:
        """``120 of 128 answers of gsm8k (chain) are the same tokens; all of them together take 1.2 % more``."""
        more = self.tokens_after / max(1, self.tokens_before) - 1
        return (
            f"{self.num_same:,} of {self.num_texts:,} {self.name} are the same tokens as before; together they take "
            f"{100 * more:.1f} % more tokens"
        )


def count_covered(folder: Path, vocabulary: Vocabulary, source: Path) -> list[Coverage | UsedTokens]:
    """How the texts of a file, or questions and answers of a run folder, are tokenised with the tokens that stay: with
    both vocabularies, token by token. Of a run of this tokenizer, the tokens of whole prompts are counted as well.
    Raises InputError: no such file or finished run.
    """
    before = _encoder(folder)
    after = type(before).from_str(trim_token_files(folder, vocabulary)["tokenizer.json"])

    def compare(name: str, texts: list[str]) -> Coverage:
        pairs = [(before.encode(text).ids, after.encode(text).ids) for text in texts]
        same = sum([vocabulary.new_ids.get(token) for token in old] == new for old, new in pairs)
        return Coverage(name, len(pairs), same, sum(len(old) for old, _ in pairs), sum(len(new) for _, new in pairs))

    if not source.is_dir():
        return [compare(f"texts of {source.name}", list(texts_in_file(source)))]
    used = [
        UsedTokens(name, len(note["ids"]), sum(token in vocabulary.new_ids for token in note["ids"]), note["greedy"])
        for name, note in used_tokens_in(folder, source).items()
    ]
    return [*(compare(name, texts) for name, texts in _texts_of_run(source)), *used]


def used_tokens_in(folder: Path, run: Path) -> dict[str, dict[str, Any]]:
    """Notes on the tokens that a run's prompts and answers use, by task and readout; none of another tokenizer's."""
    notes = {name: note for name, note in RunFolder.open(run).notes.items() if name.startswith(USED_TOKENS)}
    own = file_sha256(folder / "tokenizer.json")
    return {name.removeprefix(USED_TOKENS): note for name, note in notes.items() if note["tokenizer"] == own}


def _texts_of_run(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Questions of each task of a run, and answers of each readout that the model wrote."""
    run = RunFolder.open(folder)
    readouts = dict.fromkeys((row["task"], row["readout"]) for row in run.metrics()["rows"])
    for task in dict.fromkeys(task for task, _ in readouts):
        records = {readout: run.records(task, readout) for name, readout in readouts if name == task}
        yield f"questions of {task}", [record["question"] for record in next(iter(records.values()))]
        for readout, answered in records.items():
            if answers := [record["completion"] for record in answered if "completion" in record]:
                yield f"answers of {task} ({readout})", answers


def num_rows(config: dict[str, Any]) -> int:
    """Rows of the embedding table. Raises InputError: the config does not say."""
    sections = [config, *(part for part in config.values() if isinstance(part, dict))]
    sizes = [part["vocab_size"] for part in sections if isinstance(part.get("vocab_size"), int)]
    if not sizes:
        raise InputError("config.json has no vocab_size, so its vocabulary cannot be trimmed; leave vocab: out.")
    return int(sizes[0])


def _most(tokens: TokenTable, least: set[int], number: int) -> set[int]:
    """As many tokens as are asked for: those of ASCII first, in the order of the vocabulary, each with its parts."""
    if number < len(least):
        enough = -(-len(least) // ROWS_BLOCK) * ROWS_BLOCK
        raise InputError(
            f"vocab:{number} is too small: {len(least):,} tokens have to stay (bytes, special and added tokens, "
            f"those of the chat template and of the texts that are named); write {enough} or more."
        )
    stay, number = set(least), max(len(least), number // ROWS_BLOCK * ROWS_BLOCK)
    for token in sorted(tokens.texts, key=lambda token: (not _is_ascii(tokens.bytes_of(token)), token)):
        new = {token, *tokens.made_from(token)} - stay
        if len(stay) + len(new) <= number:
            stay |= new
    return stay


def _is_ascii(text: bytes) -> bool:
    return all(byte in (9, 10, 13) or 32 <= byte < 127 for byte in text)


def _is_latin(text: bytes) -> bool:
    try:
        characters = text.decode()
    except UnicodeDecodeError:
        return False
    return all(
        ord(character) < 128
        or character in _SHARED_MARKS
        or unicodedata.name(character, "").startswith(("LATIN ", "COMBINING ", "NO-BREAK SPACE"))
        for character in characters
    )


_CLASSES = {"ascii": _is_ascii, "latin": _is_latin}


def _encoder(folder: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises bare Exceptions
        raise InputError(f"{folder}/tokenizer.json cannot be read ({error}); get the file again.") from error


def _tokens_of(tokenizer: Tokenizer, texts: Iterable[str]) -> set[int]:
    return {token for text in texts for token in tokenizer.encode(text, add_special_tokens=True).ids}


def texts_in_file(path: Path) -> Iterator[str]:
    """The text of a file, the texts in the rows of a data file, or the questions and answers of a run."""
    from layercut.tasks.data_files import read_rows_of_file, read_text

    if path.is_dir():
        for _, texts in _texts_of_run(path):
            yield from texts
    elif path.name.removesuffix(".gz").endswith((".jsonl", ".json", ".csv", ".parquet")):
        for row in read_rows_of_file(path):
            yield from _strings(row.fields)
    else:
        yield read_text(path, "text")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)
