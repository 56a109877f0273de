"""The tokens of a GGUF file that stay: rows of its tables are copied as they are, and no block is quantised again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layercut.errors import CheckpointError, InputError
from layercut.models.gguf_file import read_array
from layercut.models.tied import EMBEDDINGS, HEAD
from layercut.surgery.gguf_width import Part, Rows
from layercut.surgery.trimming import TokenTable, is_byte, merges_within, ranks_of
from layercut.surgery.vocabulary import Vocabulary

if TYPE_CHECKING:
    from layercut.models.gguf_file import GgufHead, GgufTensor

_PREFIX = "tokenizer.ggml."
_TOKENS, _MERGES = f"{_PREFIX}tokens", f"{_PREFIX}merges"
_ARRAYS = (_TOKENS, f"{_PREFIX}scores", f"{_PREFIX}token_type")
_KINDS = ("gpt2", "llama")  # byte-level merges by rank, and SentencePiece's by score
_NORMAL, _UNUSED = 1, 5  # types of tokens that may go; unknown, control, user-defined and byte tokens stay
_TABLES = frozenset({EMBEDDINGS, HEAD, "output.bias"})


def tokens_of_gguf(head: GgufHead) -> TokenTable:
    """The vocabulary of a GGUF file.

    Raises:
        InputError: a kind of vocabulary that cannot be trimmed.
        CheckpointError: its arrays are of different lengths.
    """
    kind = head.metadata.get(f"{_PREFIX}model")
    if kind not in _KINDS or _TOKENS not in head.fields:
        raise InputError(
            f"this GGUF file has a vocabulary of the kind {kind!r:.40}, and only byte-pair vocabularies "
            f"({', '.join(_KINDS)}) are trimmed; leave vocab: out."
        )
    tokens = _array(head, _TOKENS)
    types = _array(head, f"{_PREFIX}token_type") or [_NORMAL] * len(tokens)
    scores = _array(head, f"{_PREFIX}scores")
    if len(types) != len(tokens):
        raise CheckpointError(f"the file has {len(tokens):,} tokens and {len(types):,} types of tokens.")
    is_byte_level = kind == "gpt2"
    texts = {token: text for token, text in enumerate(tokens) if types[token] == _NORMAL}
    always = {token for token, type_ in enumerate(types) if type_ not in (_NORMAL, _UNUSED)}
    always |= {token for token, text in texts.items() if is_byte(text, is_byte_level)}
    ranks = None
    if is_byte_level:
        ranks = ranks_of(_array(head, _MERGES))
    ranked = None if is_byte_level else {text: scores[token] for token, text in texts.items()}
    return TokenTable(texts=texts, always=frozenset(always), ranks=ranks, scores=ranked, is_byte_level=is_byte_level)


def ids_of_gguf(head: GgufHead) -> set[int]:
    """Token ids that the metadata name, such as the end of a turn."""
    return {int(value) for key, value in head.metadata.items() if key.startswith(_PREFIX) and key.endswith("_token_id")}


def num_rows_of_gguf(head: GgufHead) -> int:
    """Rows of the embedding table. Raises CheckpointError: it has none."""
    table = next((tensor for tensor in head.tensors if tensor.name == EMBEDDINGS), None)
    if table is None:
        raise CheckpointError(f"the file has no tensor {EMBEDDINGS}.")
    return table.shape[1]


def trimmed_metadata(head: GgufHead, vocabulary: Vocabulary) -> dict[str, Any]:
    """Keys whose values change, with the new values; tuples are arrays.

    Raises:
        InputError: the vocabulary is one of another file, or a key names a token that goes.
    """
    size, new = num_rows_of_gguf(head), vocabulary.new_ids
    if vocabulary.size != size:
        raise InputError(f"the plan is for a vocabulary of {vocabulary.size:,} rows, and this file has {size:,}.")
    changes: dict[str, Any] = {}
    for key in _ARRAYS:
        if key in head.fields:
            values = _array(head, key)
            changes[key] = tuple(values[old] for old in vocabulary.kept if old < len(values))
    if _MERGES in head.fields:
        changes[_MERGES] = tuple(merges_within(_array(head, _MERGES), set(changes[_TOKENS])))
    for key, value in head.metadata.items():
        if key.startswith(_PREFIX) and key.endswith("_token_id") and value < size:
            if value not in new:
                raise InputError(f"{key} is {value}, a token that the plan removes; make the plan again.")
            changes[key] = new[value]
        elif key == f"{head.architecture}.vocab_size":
            changes[key] = len(vocabulary.kept)
    return changes


def trimmed(tensor: GgufTensor, vocabulary: Vocabulary | None) -> tuple[GgufTensor, Part | None]:
    """A table of tokens without the rows that go, and where its bytes come from; None where all of it stays.

    Raises:
        InputError: another tensor with a row for each token.
    """
    if vocabulary is None or (tensor.name not in _TABLES and tensor.shape[-1] != vocabulary.size):
        return tensor, None
    if tensor.name not in _TABLES or tensor.shape[-1] != vocabulary.size:
        raise InputError(
            f"{tensor.name} has {tensor.shape[-1]:,} rows; the {vocabulary.size:,} tokens have rows in the embeddings "
            "and the output head alone, as far as layercut knows; leave vocab: out."
        )
    row_bytes, shape = tensor.num_bytes // vocabulary.size, (*tensor.shape[:-1], len(vocabulary.kept))
    new = tensor._replace(shape=shape, num_bytes=row_bytes * len(vocabulary.kept))
    return new, Rows(row_bytes, vocabulary.kept)


def _array(head: GgufHead, key: str) -> list[Any]:
    """All entries of an array; empty where the key is missing."""
    field = head.fields.get(key)
    return [] if field is None else read_array(field)
