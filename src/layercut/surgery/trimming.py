"""The tokenizer and the token ids of a model without the tokens that go.

The tokens that stay are closed under their merges, so a text whose tokens all stay is tokenised as before: byte-pair
encoding merges the pair of the lowest rank, each merge that it makes stays, and the lowest of fewer ranks is the same.
Rows of embeddings and head are taken unchanged, so a greedy answer whose tokens all stay is the same answer.
"""

# Words: an old id is one of the original's vocabulary; a new id is its place among the tokens that stay.

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from layercut.errors import InputError
from layercut.models.weights import read_object
from layercut.surgery.channels import Vocabulary

_ROLES = ("system", "user", "assistant", "tool")
ROWS_BLOCK = 64  # the number of rows is a multiple of it, which matrix kernels and engines want
_ID_KEY = re.compile(r".*(_token_ids?|_token_index)|(begin_)?suppress_tokens|bad_words_ids|forced_decoder_ids")
_WORD = re.compile(r" ?[^\W\d_]+|\d| ?[^\w\s]+|\s+|_")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
SLOW_FILES = frozenset(
    {"vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt"}
)
"""Files of tokenizers in Python, which hold the whole vocabulary; tokenizer.json takes their place."""


@dataclass(frozen=True, kw_only=True)
class TokenTable:
    """A vocabulary as far as trimming needs it."""

    texts: Mapping[int, str]  # tokens as the tokenizer writes them, by id, without those that are never merged
    always: frozenset[int]  # ids that always stay: bytes, special and added tokens, the unknown one
    ranks: Mapping[tuple[str, str], int] | None  # merges by their order; None where scores rank them
    scores: Mapping[str, float] | None = None  # of SentencePiece's byte pairs in a GGUF file
    is_byte_level: bool = True  # each character of a token stands for a byte

    def bytes_of(self, token: int) -> bytes:
        text = self.texts[token]
        if self.is_byte_level:
            return bytes(_BYTE_OF[character] for character in text if character in _BYTE_OF)
        match = _BYTE.fullmatch(text)
        return bytes([int(match[1], 16)]) if match else text.replace("▁", " ").encode()

    @cached_property
    def ids(self) -> dict[str, int]:
        return {text: token for token, text in self.texts.items()}

    def close(self, wanted: Iterable[int]) -> set[int]:
        """The wanted tokens, those that always stay, and all that byte-pair encoding makes on the way to them."""
        stay = {*self.always, *wanted}
        for token in [token for token in stay if token in self.texts]:
            stay.update(self.made_from(token))
        return stay

    def made_from(self, token: int) -> set[int]:
        """Tokens that the encoding of one token goes through; none for one that no merges make."""
        last, steps = self._merge(self.texts[token])
        return {self.ids[step] for step in steps if step in self.ids} if len(last) == 1 else set()

    def spell(self, text: str) -> set[int]:
        """Tokens of the words of a text, roughly: words are split by a plain rule, not by the tokenizer's own."""
        if self.is_byte_level:
            words = ["".join(_CHARACTER_OF[byte] for byte in word.encode()) for word in _WORD.findall(text)]
        else:
            words = [word.replace(" ", "▁") for word in _WORD.findall(text)]
        return {self.ids[symbol] for word in set(words) for symbol in self._merge(word)[0] if symbol in self.ids}

    def _merge(self, text: str) -> tuple[list[str], set[str]]:
        """The symbols that merges make of a text, and all that stood there on the way."""
        symbols, steps, scores = list(text), set(text), self.scores or {}
        while True:
            pairs = [*enumerate(pairwise(symbols))]
            ranked: list[tuple[float, int]]
            if self.ranks is not None:
                ranked = [(self.ranks[pair], at) for at, pair in pairs if pair in self.ranks]
            else:
                ranked = [(-scores["".join(pair)], at) for at, pair in pairs if "".join(pair) in scores]
            if not ranked:
                return symbols, steps
            at = min(ranked)[1]
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
            steps.add(symbols[at])


# GPT-2's characters that stand for bytes: printable ones for themselves, the others from 256 on.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + at): byte for at, byte in enumerate(_OTHERS)}
_CHARACTER_OF = {byte: character for character, byte in _BYTE_OF.items()}


def tokens_of_folder(folder: Path) -> TokenTable:
    """The vocabulary of a model folder; kinds that cannot be trimmed are refused."""
    data = _tokenizer(folder)
    model, kind = data["model"], data["model"].get("type") or "BPE"
    if kind != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise InputError(
            f"{folder}: its tokenizer is {kind!r:.40}, and only byte-pair vocabularies are trimmed; leave vocab: out."
        )
    added = {int(entry["id"]) for entry in data.get("added_tokens") or ()}
    texts = {int(token): text for text, token in model["vocab"].items()}
    ranks = ranks_of_merges(model["merges"])
    is_byte_level = '"ByteLevel"' in json.dumps([data.get("pre_tokenizer"), data.get("decoder")])
    always = added | {token for token, text in texts.items() if is_byte_token(text, is_byte_level)}
    always |= {token for token, text in texts.items() if text == model.get("unk_token")}
    plain = {token: text for token, text in texts.items() if token not in added}
    return TokenTable(texts=plain, always=frozenset(always), ranks=ranks, is_byte_level=is_byte_level)


def is_byte_token(text: str, is_byte_level: bool) -> bool:
    """True for a token that stands for one byte."""
    return len(text) == 1 if is_byte_level else _BYTE.fullmatch(text) is not None


def ranks_of_merges(merges: Iterable[Any]) -> dict[tuple[str, str], int]:
    """The order of merges, each two symbols or a text with a space between them."""
    return {_pair(merge): rank for rank, merge in enumerate(merges)}


def merges_within(merges: Iterable[Any], texts: Container[str]) -> list[Any]:
    """The merges whose two symbols and whose result are among the tokens that stay."""
    pairs = ((merge, *_pair(merge)) for merge in merges)
    return [merge for merge, *pair in pairs if all(part in texts for part in (*pair, "".join(pair)))]


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _tokenizer(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"{folder} has no tokenizer.json, so its vocabulary cannot be trimmed; leave vocab: out.")
    data = read_object(path)
    if not isinstance(data.get("model"), dict) or not data["model"].get("vocab"):
        raise InputError(f"{path} holds no vocabulary; get the file again.")
    return data


def ids_in(value: Any, key: str = "") -> set[int]:
    """Token ids that a config names, by keys such as ``eos_token_id``."""
    if isinstance(value, dict):
        return {token for name, inner in value.items() for token in ids_in(inner, name)}
    if isinstance(value, list):
        return {token for inner in value for token in ids_in(inner, key)}
    is_id = type(value) is int and value >= 0 and _ID_KEY.fullmatch(key)
    return {value} if is_id else set()


def follow_token_ids(value: Any, vocabulary: Vocabulary, key: str = "") -> Any:
    """A config with new ids and the new number of rows; refused if it names a token that goes."""
    if isinstance(value, dict):
        return {name: follow_token_ids(inner, vocabulary, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [follow_token_ids(inner, vocabulary, key) for inner in value]
    if key == "vocab_size" and value == vocabulary.size:
        return len(vocabulary.kept)
    if type(value) is not int or value < 0 or not _ID_KEY.fullmatch(key):
        return value
    if value not in vocabulary.new_ids:
        if value >= vocabulary.size:  # beyond the table, so that it was never in use
            return value
        raise InputError(f"the config names the token {value} ({key}), which the plan removes; make the plan again.")
    return vocabulary.new_ids[value]


def trim_token_files(folder: Path, vocabulary: Vocabulary) -> dict[str, Any]:
    """Content of the files of a model folder that name tokens, for the tokens that stay."""
    new, files = vocabulary.new_ids, {"tokenizer.json": trim_tokenizer(_tokenizer(folder), vocabulary)}
    for name in ("generation_config.json", "tokenizer_config.json", "added_tokens.json"):
        if not (folder / name).is_file():
            continue
        data = follow_token_ids(read_object(folder / name), vocabulary)
        if name == "added_tokens.json":
            data = {text: new[token] for text, token in data.items() if token in new}
        if isinstance(data.get("added_tokens_decoder"), dict):
            decoder = data["added_tokens_decoder"].items()
            data["added_tokens_decoder"] = {str(new[int(old)]): entry for old, entry in decoder if int(old) in new}
        files[name] = data
    return files


def trim_tokenizer(data: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """tokenizer.json for the tokens that stay."""
    new, model = vocabulary.new_ids, dict(data["model"])
    model["vocab"] = {text: new[token] for text, token in model["vocab"].items() if token in new}
    model["merges"] = merges_within(model["merges"], model["vocab"])
    added = [{**entry, "id": new[entry["id"]]} for entry in data.get("added_tokens") or () if entry["id"] in new]
    padding = data.get("padding")
    if isinstance(padding, dict) and padding.get("pad_id") in new:
        padding = {**padding, "pad_id": new[padding["pad_id"]]}
    processor = _follow_processor(data.get("post_processor"), new)
    return {**data, "added_tokens": added, "padding": padding, "post_processor": processor, "model": model}


def _follow_processor(value: Any, new: Mapping[int, int]) -> Any:
    """A post-processor with new ids: lists under ``ids``, and pairs of a text and its id (``cls``, ``sep``)."""
    if isinstance(value, dict):
        return {
            name: [new[token] for token in inner]
            if name == "ids"
            else [inner[0], new[inner[1]]]
            if name in ("cls", "sep") and isinstance(inner, list)
            else _follow_processor(inner, new)
            for name, inner in value.items()
        }
    return [_follow_processor(inner, new) for inner in value] if isinstance(value, list) else value


def texts_of_template(folder: Path) -> list[str]:
    """What the chat templates of a model folder write."""
    files = [folder / "chat_template.jinja", *sorted(folder.glob("additional_chat_templates/*.jinja"))]
    templates = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    if (folder / "tokenizer_config.json").is_file():
        own = read_object(folder / "tokenizer_config.json").get("chat_template")
        templates += [own] if isinstance(own, str) else [str(entry.get("template")) for entry in own or ()]
    return [text for template in templates for text in texts_in_template(template)]


def texts_in_template(template: str) -> list[str]:
    """The text of a template outside of its code, and the literals in the code."""
    texts = re.split(r"\{[%{#].*?[%}#]\}", template, flags=re.DOTALL)
    literals = re.findall(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", template)
    texts += [(left or right).replace("\\n", "\n") for left, right in literals]
    return [*_ROLES, *filter(None, texts)]


def multiple_of_block(tokens: TokenTable, stay: set[int]) -> set[int]:
    """The same with real tokens that fill a block of rows: a row of zeros has the logit 0, and could win."""
    stay = set(stay)
    for token in sorted(tokens.texts):
        if len(stay) % ROWS_BLOCK == 0:
            break
        if token not in stay and tokens.close([token]) <= stay | {token}:
            stay.add(token)
    return stay
