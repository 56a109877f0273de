"""Watch one sandboxed process from outside: read what it says, and end it when it takes too much."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

_MAX_VERDICT = 2**16
_BETWEEN_LOOKS = 0.05
_PATIENCE = 5.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Seen(NamedTuple):
    """What was read from a process until it ended."""

    output: bytes
    verdict: bytes
    stopped: str
    """``timeout``, ``memory`` or ``output`` if it was ended for that; empty if it ended by itself."""


def watch(
    process: subprocess.Popen[bytes], verdict: int, alive: int, *, wall_seconds: float, memory_mb: int, output_kb: int
) -> Seen:
    """Read a process's output and its verdict, and leave none of its processes behind.

    Args:
        process: with a pipe for standard output, in a session of its own; if it dies, its children die.
        verdict: read end of the pipe that the verdict comes through; it is closed here.
        alive: write end of the pipe that keeps the judge going; it is closed here.
        wall_seconds: from now.
        memory_mb: resident memory of all its processes.
        output_kb: of its output.
    """
    assert process.stdout is not None
    output, said, stopped = bytearray(), bytearray(), ""
    deadline = time.monotonic() + wall_seconds
    next_look = time.monotonic() + _BETWEEN_LOOKS
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, output)
            selector.register(verdict, selectors.EVENT_READ, said)
            while selector.get_map() and not stopped:
                for key, _ in selector.select(min(_BETWEEN_LOOKS, max(0.0, deadline - time.monotonic()))):
                    data = os.read(key.fd, 2**16)
                    key.data.extend(data)
                    if not data:
                        selector.unregister(key.fileobj)
                now = time.monotonic()
                if len(output) > output_kb * 1024 or len(said) > _MAX_VERDICT:
                    stopped = "output"
                elif now >= deadline:
                    stopped = "timeout"
                elif now >= next_look:
                    next_look = now + _BETWEEN_LOOKS
                    if resident_memory(process.pid) > memory_mb * 2**20:
                        stopped = "memory"
    finally:
        os.close(alive)
        _end(process)
        _wait_for_end_of(verdict)
        process.stdout.close()
        os.close(verdict)
    return Seen(bytes(output[: output_kb * 1024]), bytes(said), stopped)


def resident_memory(root: int) -> int:
    """Bytes that a process and its descendants hold in memory; 0 where the system does not tell.

    Pages that several of them share count several times.
    """
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        folder = Path(f"/proc/{pid}")
        with contextlib.suppress(OSError, IndexError, ValueError):
            total += int((folder / "statm").read_text(encoding="ascii").split()[1]) * _PAGE
            waiting += map(int, (folder / "task" / str(pid) / "children").read_text(encoding="ascii").split())
    return total


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


def _wait_for_end_of(verdict: int) -> None:
    """Until the judge is gone, who alone holds the other end; then so are all processes of its namespace."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and select.select([verdict], [], [], deadline - time.monotonic())[0]:
        if not os.read(verdict, 2**16):
            return
