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
from typing import TYPE_CHECKING, Any

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
)
from layercut.tasks.cells import USED_TOKENS
from layercut.tasks.data_files import read_rows_of_file, read_text

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


def choose_vocabulary(folder: Path, text: str, texts: Iterable[str] = ()) -> Vocabulary:
    """The tokens of a model folder that stay: ``text`` names them, see the module; those of ``texts`` stay as well.

    Raises InputError.
    """
    from tokenizers import Tokenizer

    check_vocabulary(text)
    tokens, config = tokens_of_folder(folder), read_config(folder)
    size = num_rows(config)
    configs = [config, *(read_object(path) for path in [folder / "generation_config.json"] if path.is_file())]
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises bare Exceptions
        raise InputError(f"{folder}/tokenizer.json cannot be read ({error}); get the file again.") from error
    files = [Path(part).expanduser() for part in files_named_in(text)]
    notes = [note for file in files if file.is_dir() for note in used_tokens_in(folder, file).values()]
    used = {token for note in notes for token in note["ids"]}
    required = {token for part in configs for token in ids_in(part)}
    required |= _tokens_of(tokenizer, [*texts_of_template(folder), *texts])
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
    least = {token for token in tokens.close(wanted) if token < size}  # a tokenizer may have more than there are rows
    stay = least if number is None else _most(tokens, least, number)
    kept = tuple(sorted(token for token in multiple_of_block(tokens, stay) if token < size))
    if len(kept) >= size:
        raise InputError(f"vocab:{text} keeps all {size:,} rows, so nothing goes; leave it out.")
    name = "+".join(Path(part).name for part in text.split("+"))
    return Vocabulary(name=name, size=size, kept=kept)


def certify_answers(folder: Path, text: str, vocabulary: Vocabulary) -> list[str]:
    """That the tokens of each run in ``text`` stay, in words; then the same tokens win at every step of its answers."""
    runs = [Path(part).expanduser() for part in files_named_in(text) if Path(part).expanduser().is_dir()]
    return [
        f"all {len(note['ids']):,} tokens of prompts and answers of {name} stay"
        + (", so its greedy answers are the same" if note["greedy"] else "")
        for run in runs
        for name, note in used_tokens_in(folder, run).items()
        if vocabulary.new_ids.keys() >= {*note["ids"]}
    ]


def used_tokens_in(folder: Path, run: Path) -> dict[str, dict[str, Any]]:
    """Notes on the tokens that a run's prompts and answers use, by task and readout; none of another tokenizer's."""
    notes = {name: note for name, note in RunFolder.open(run).notes.items() if name.startswith(USED_TOKENS)}
    own = file_sha256(folder / "tokenizer.json")
    return {name.removeprefix(USED_TOKENS): note for name, note in notes.items() if note["tokenizer"] == own}


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


def _tokens_of(tokenizer: Tokenizer, texts: Iterable[str]) -> set[int]:
    return {token for text in texts for token in tokenizer.encode(text, add_special_tokens=True).ids}


def texts_in_file(path: Path) -> Iterator[str]:
    """The text of a file, the texts in the rows of a data file, or the questions of a run and what the model wrote."""
    if path.is_dir():
        run = RunFolder.open(path)
        for row in run.metrics()["rows"]:
            for record in run.records(row["task"], row["readout"]):
                yield record["question"]
                yield record.get("completion", "")
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
