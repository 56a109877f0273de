"""A serving profile: how many requests run at once, how many tokens each reads and writes, and the engine.

>>> Profile.parse("batch=4,new=100")
Profile(batch=4, prompt=300, new=100, engine='transformers')
>>> Profile.parse("server,engine=llama.cpp")
Profile(batch=16, prompt=1000, new=300, engine='llama.cpp')
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, Self

from layercut.errors import InputError, unknown

_PART = re.compile(r"(\w+)=(\d+)|engine=(transformers|llama\.cpp)")
TRANSFORMERS, LLAMA_CPP = "transformers", "llama.cpp"


class Profile(NamedTuple):
    """How a model is to be served."""

    batch: int = 1  # requests at once
    prompt: int = 300  # tokens that each reads
    new: int = 300  # tokens that each writes
    engine: str = TRANSFORMERS  # what runs it

    @classmethod
    def parse(cls, text: str) -> Self:
        """A profile by its name, numbers or both; what is left out is the laptop's.

        Raises:
            InputError: neither.
        """
        first, *rest = (part.strip() for part in text.split(","))
        named = PROFILES.get(first)
        given: dict[str, Any] = {}
        for part in rest if named else (first, *rest):
            if (found := _PART.fullmatch(part)) is None:
                raise InputError(
                    f"`serve` {text!r:.60} is no profile; write {', '.join(PROFILES)}, or batch=1,prompt=300,new=300; "
                    f"with engine={LLAMA_CPP}, a GGUF file is timed there."
                )
            name, number = found[1] or "engine", int(found[2] or 1)
            if name not in cls._fields:
                raise unknown("number of a profile", name, cls._fields)
            if number < 1:
                raise InputError(f"`serve` {name}={number} is too few; write 1 or more.")
            given[name] = found[3] or number
        return cls(*named or ())._replace(**given)

    @property
    def tokens(self) -> int:
        """Of one request, read and written."""
        return self.prompt + self.new

    @property
    def middle(self) -> int:
        """Tokens in front of the one that is half way through the answer."""
        return self.prompt + self.new // 2

    @property
    def words(self) -> str:
        """For people."""
        where = "" if self.engine == TRANSFORMERS else f", {self.engine}"
        return f"batch {self.batch}, {self.prompt:,} tokens read and {self.new:,} written{where}"


LAPTOP = "laptop"
PROFILES = {LAPTOP: Profile(1, 300, 300), "server": Profile(16, 1000, 300), "batch": Profile(64, 300, 300)}


def profile_text(text: str) -> str:
    """The same text, if it names a profile; a check of settings."""
    Profile.parse(text)
    return text


def fitted(serve: str, length: int | None, is_given: bool) -> Profile:
    """A profile in a context of ``length`` tokens; one that nobody asked for is made to fit.

    Raises:
        InputError: one that was asked for and does not fit.
    """
    profile = Profile.parse(serve)
    if length is None or profile.tokens <= length:
        return profile
    if not is_given:
        return profile._replace(prompt=length // 2, new=length // 2)
    raise InputError(f"`serve` {serve} is {profile.tokens:,} tokens, and the model takes {length:,}; ask for less.")
