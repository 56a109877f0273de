"""Foreign code: ``my.module:function`` by its name, and when it may run.

A name on the command line or in a call was typed by the user. A study file may come from anybody, so code that it names
runs only where the user trusts it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from layercut.errors import InputError, first_line

_NAME = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")
_untrusted: list[str] = []


@contextmanager
def untrusted_code(source: str) -> Iterator[None]:
    """Inside the block, no foreign code is imported; ``source`` is the file that names it, for the message."""
    _untrusted.append(source)
    try:
        yield
    finally:
        _untrusted.pop()


def check_trust(what: str) -> None:
    """Raise InputError inside ``untrusted_code``; ``what`` names the code, such as ``the task my.module:function``."""
    if _untrusted:
        raise InputError(
            f"{_untrusted[-1]} runs code of its own ({what}). If you know what that code does, add `trust_study_code`; "
            "else remove it from the file."
        )


def check_function_name(name: str, kind: str) -> None:
    """Raise InputError for other text than ``my.module:function``, and inside ``untrusted_code``."""
    if not _NAME.fullmatch(name):
        raise InputError(f"the {kind} {name[:80]!r} is not module:function, such as my_package.my_module:my_function.")
    check_trust(f"the {kind} {name}")


def function_named(name: str, kind: str) -> Any:
    """The function of ``my.module:function``; InputError for another form, not trusted, or not importable."""
    check_function_name(name, kind)
    module, _, function = name.partition(":")
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise InputError(f"the {kind} {name} is a part of Python, and no {kind}; write your own module:function.")
    try:
        imported = getattr(import_module(module), function)
    except Exception as error:  # of any code in the module
        raise InputError(
            f"the {kind} {name} cannot be imported ({type(error).__name__}: {first_line(error)}); write "
            "module:function."
        ) from error
    if not callable(imported):
        raise InputError(f"the {kind} {name} is a {type(imported).__name__}, and a function is needed.")
    return imported
