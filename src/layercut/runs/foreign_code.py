"""Code of other people: ``my.module:function`` by its name, and when it may run.

A name on the command line or in a call was typed by the user. A study file may come from anybody, so what
it names runs only where the user trusts it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from layercut.errors import InputError, first_line

TRUST_FLAG = "--trust-study-code"
_NAME = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")
_untrusted: list[str] = []


@contextmanager
def untrusted(source: str) -> Iterator[None]:
    """Inside the block, no code of other people is imported; ``source`` is what names it, for the message."""
    _untrusted.append(source)
    try:
        yield
    finally:
        _untrusted.pop()


def check_trust(what: str) -> None:
    """Refuse code where its source is not trusted.

    Args:
        what: what names the code, such as ``trust_remote_code: true``.

    Raises:
        InputError: inside ``untrusted``.
    """
    if _untrusted:
        raise InputError(
            f"{_untrusted[-1]} runs code of its own ({what}). If you know what that code does, add {TRUST_FLAG}; "
            "else remove it from the file."
        )


def check_function_name(name: str, kind: str) -> None:
    """Refuse what cannot be ``my.module:function``, and any such name where its source is not trusted.

    Raises:
        InputError: one of the two.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"the {kind} {name[:80]!r} is not module:function, such as my_package.my_module:my_function.")
    check_trust(f"the {kind} {name}")


def function_named(name: str, kind: str) -> Any:
    """The function behind ``my.module:function``, whose module is imported.

    Raises:
        InputError: another form, not trusted, or nothing that can be imported and called.
    """
    check_function_name(name, kind)
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function)
    except Exception as error:  # whatever the module does
        raise InputError(
            f"the {kind} {name} cannot be imported ({type(error).__name__}: {first_line(error)}); write "
            "module:function."
        ) from error
    if not callable(found):
        raise InputError(f"the {kind} {name} is a {type(found).__name__}, and a function is needed.")
    return found
