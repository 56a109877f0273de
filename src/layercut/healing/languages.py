"""Detect texts in an unexpected language. The only file that imports py3langid."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

from layercut.errors import MissingExtra, unknown

MIN_LETTERS = 20
"""Letters from which a text's language can be detected; a name or a word of mathematics could be in any."""
MAX_PROBABILITY = 0.02
"""A text is in another language if all allowed ones together have at most this probability. The likeliest language
alone is not enough: programs in English words look like Latin or Pidgin, but without certainty.
"""
_NONE = ("zxx", "und")


def check_languages(codes: Collection[str]) -> None:
    """Raise InputError for a code of no language, or MissingExtra without py3langid."""
    known = {code for code, _ in _identifier().rank("a text") if code not in _NONE}
    for code in codes:
        if code not in known:
            raise unknown("language", code, known)


def is_in_another(text: str, codes: Collection[str]) -> bool:
    """Whether a text is surely in none of these languages (ISO 639 codes), and more than numbers and signs."""
    if sum(map(str.isalpha, text)) < MIN_LETTERS:
        return False
    found = _identifier().rank(text.encode("utf-8", "replace"))
    return found[0][0] not in _NONE and sum(share for code, share in found if code in codes) < MAX_PROBABILITY


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise MissingExtra("telling languages apart", "heal") from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
