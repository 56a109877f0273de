"""Limit the time, memory and output of chat templates, which are programs that come with a model.

A template first runs on the same conversation in another process, which is killed if it takes too long. Only then
does transformers run it here. So the text is transformers' own, and a template that does not end costs ten seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import selectors
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from layercut.errors import InputError

SECONDS = 10.0
"""For one conversation; an ordinary template takes a millisecond."""
MAX_LENGTH = 10_000_000
"""Characters of a rendered conversation."""
_START_SECONDS = 120.0


def check_template(
    template: str,
    messages: Sequence[Mapping[str, str]],
    model: str,
    *,
    tokens: Mapping[str, Any],
    add_generation_prompt: bool,
    continue_final_message: bool,
) -> None:
    """Raise if a chat template does not end in time on a conversation, or writes without end.

    Args:
        template: the Jinja source.
        messages: the conversation.
        model: its name, for messages.
        tokens: special tokens by name, such as ``bos_token``, which the template may write.
        add_generation_prompt: as for transformers.
        continue_final_message: as for transformers.

    Raises:
        InputError: too long, too large, or an error that is none of Jinja's, such as adding a number to a text.
    """
    request = {
        "conversations": [list(messages)],
        "chat_template": template,
        "add_generation_prompt": add_generation_prompt,
        "continue_final_message": continue_final_message,
        **tokens,
    }
    text = json.dumps(request)
    digest = hashlib.sha256(text.encode()).digest()
    with _lock:
        if digest in _passed:
            return
        answer = None if template in _endless else _running().ask(text)
    problem = ""
    if answer is None:
        problem = f"does not end within {SECONDS:g} seconds or crashes"
        _endless.add(template)
    elif answer.get("error") == "memory":
        problem = "takes more than 512 MiB of memory"
    elif answer.get("length", 0) > MAX_LENGTH:
        problem = f"writes {answer['length']:,} characters ({MAX_LENGTH:,} are allowed)"
    elif answer.get("error") in _NOT_JINJAS:
        problem = f"fails ({answer['error']}: {answer['text']})"
    if problem:
        raise InputError(
            f"the chat template of {model} {problem} on a conversation of {len(messages)} turns. Use the tokenizer "
            "files of the original model, or tasks with plain prompts."
        )
    _passed.add(digest)


_NOT_JINJAS = frozenset(
    {"TypeError", "AttributeError", "KeyError", "IndexError", "RecursionError", "ZeroDivisionError", "OverflowError"}
)
"""Errors of a template that transformers lets through as they are."""


class _Worker:
    """The other process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("template_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._owner = os.getpid()
        if self._line(_START_SECONDS) != b"ready":
            self.end()
            raise InputError("no process can be started to run chat templates; check free memory and disk space.")

    @property
    def is_mine(self) -> bool:
        """Whether it runs, and was started by this process and not by the one that this was forked from."""
        return self._owner == os.getpid() and self._process.poll() is None

    def ask(self, request: str) -> dict[str, Any] | None:
        """Its answer; None where none came in time, and it is killed then."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request.encode() + b"\n")
            self._process.stdin.flush()
            line = self._line(SECONDS)
        except BrokenPipeError:
            line = b""
        if not line:
            self.end()
            return None
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.communicate()

    def _line(self, seconds: float) -> bytes:
        """The next line, of which the worker writes one at a time; empty if it does not come."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                return b""
        return self._process.stdout.readline().strip()


_lock = threading.Lock()
_workers: list[_Worker] = []
_endless: set[str] = set()
"""Templates that did not end once; they are not tried again."""
_passed: set[bytes] = set()
"""Hashes of what was run and ended, so that the same prompts under another plan cost nothing."""


def _running() -> _Worker:
    if not _workers or not _workers[0].is_mine:
        _workers[:] = [_Worker()]
    return _workers[0]
