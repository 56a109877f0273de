"""Runs chat templates in a process of its own, under a limit on memory: one JSON line in, one out.

A template is a program that comes with the model. Here it may loop for ever or ask for any amount of memory; the
process that asks kills this one (``engine.template_guard``).
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

MEMORY = 512 * 2**20
"""Bytes that rendering may take beside what Python and transformers take already."""


def main() -> None:
    """Answer requests until stdin ends. An answer is the number of characters, or the kind of error."""
    from transformers.utils.chat_template_utils import render_jinja_template

    _limit_memory()
    print("ready", flush=True)
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        try:
            rendered: Any = render_jinja_template(**request)
            answer: dict[str, Any] = {"length": len(rendered[0][0])}
        except MemoryError:
            answer = {"error": "memory"}
        except Exception as error:
            answer = {"error": type(error).__name__, "text": " ".join(str(error).split())[:300]}
        print(json.dumps(answer), flush=True)


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # not every system has such limits, or reports them
        import resource
        from pathlib import Path

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
