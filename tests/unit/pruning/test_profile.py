"""Serving profiles: by name, by numbers, and what is none."""

from __future__ import annotations

import pytest

from layercut.errors import InputError
from layercut.pruning.settings import PROFILES, Profile, PruneSettings, fitted_profile


def test_a_profile_by_its_name_or_by_numbers() -> None:
    assert Profile.parse("server") == PROFILES["server"] == Profile(16, 1000, 300)
    assert Profile.parse("new=10, batch=2") == Profile(2, 300, 10)
    assert Profile.parse("server, engine=llama.cpp") == Profile(16, 1000, 300, "llama.cpp")
    assert Profile.parse("new=10,engine=llama.cpp").words == "batch 1, 300 tokens read and 10 written, llama.cpp"
    assert Profile.parse("batch,prompt=9") == Profile(64, 9, 300)
    assert Profile(1, 300, 100).middle == 350 and Profile(1, 300, 100).tokens == 400
    assert Profile.parse(PruneSettings(use="math").serve) == PROFILES["laptop"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("desktop", "is no profile; write laptop, server, batch"),
        ("batch=0", "is no profile"),
        ("batch 4", "is no profile"),
        ("rows=3", "is no profile"),
        ("prompt=1.5", "is no profile"),
        ("engine=vllm", "is no profile"),
        ("batch=2,server", "is no profile"),
    ],
)
def test_what_is_no_profile(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        PruneSettings(use="math", serve=text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_profile_that_nobody_asked_for_is_made_to_fit() -> None:
    assert fitted_profile("laptop", 128, False) == Profile(1, 64, 64)
    assert fitted_profile("laptop", None, True) == fitted_profile("laptop", 600, False) == PROFILES["laptop"]
    with pytest.raises(InputError, match="`serve` laptop is 600 tokens, and the model takes 128"):
        fitted_profile("laptop", 128, True)
