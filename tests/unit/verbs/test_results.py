"""What push is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.verbs.results import PushVerb


def test_nothing_is_looked_at_before_it_is_asked_for(tmp_path: Path) -> None:
    request = PushVerb.of(folder=str(tmp_path), repo="me/small", private=True)
    assert request.private and request.folder == tmp_path
    with pytest.raises(InputError, match="holds no checkpoint"):
        _ = request.upload
