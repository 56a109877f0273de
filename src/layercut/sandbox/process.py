"""Monitor one sandboxed process from outside: read its output, and kill it when it exceeds a limit."""

from __future__ import annotations

import contextlib
import os
import re
import select
import selectors
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import NamedTuple

from layercut.sandbox.isolation import Limits

_MAX_VERDICT = 2**16
_POLL_SECONDS = 0.05
_PATIENCE = 5.0
_LOOK_SECONDS = 2.0  # longest reading of the processes: they may start new ones as fast as these are read
_LATE = 5.0
"""Seconds after the last moment that the limits allow, at which the process is killed whatever the loop does."""
_TICK = 1 / os.sysconf("SC_CLK_TCK")
_FIELD = re.compile(rb"^(VmRSS|VmSwap|NSpid):(.*)$", re.MULTILINE)


class Seen(NamedTuple):
    """The output of a process until its end."""

    output: bytes
    verdict: bytes
    stopped: str
    """``timeout``, ``memory``, ``output`` or ``unwatched`` (the state of its processes could not be read) if it was
    ended for that; empty if it ended by itself."""


class Look(NamedTuple):
    """The state of a program's processes at one moment."""

    memory: int
    """Bytes, resident and swapped out, of all processes, including the judge's. Shared pages count several times."""
    program: dict[int, float]  # processor seconds of each of the program's processes
    reaped: float  # processor seconds of ended processes that were waited for
    judge: float  # processor seconds of the judge, which are the tests' own


def watch_process(process: subprocess.Popen[bytes], verdict: int, alive: int, limits: Limits) -> Seen:
    """Read a process's output and its verdict, and leave none of its processes behind.

    Args:
        process: with a pipe for standard output, in a session of its own; if it dies, its children die.
        verdict: read end of the pipe of the verdict; it is closed here.
        alive: write end of the pipe that keeps the judge running; it is closed here.
    """
    assert process.stdout is not None
    output, said, stopped = bytearray(), bytearray(), ""
    start = last = time.monotonic()
    clock = _Clock()
    killed: list[bool] = []

    def kill() -> None:
        killed.append(True)
        _kill(process)

    longest = threading.Timer(limits.wall_seconds + limits.cpu_seconds + _LATE, kill)
    longest.daemon = True
    longest.start()
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, output)
            selector.register(verdict, selectors.EVENT_READ, said)
            while selector.get_map() and not stopped:
                for key, _ in selector.select(max(0.0, last + _POLL_SECONDS - time.monotonic())):
                    data = os.read(key.fd, 2**16)
                    key.data.extend(data)
                    if not data:
                        selector.unregister(key.fileobj)
                now = time.monotonic()
                if len(output) > limits.output_kb * 1024 or len(said) > _MAX_VERDICT:
                    stopped = "output"
                elif now - start - clock.judge >= limits.wall_seconds:
                    stopped = "timeout"
                elif now >= last + _POLL_SECONDS:
                    seen = state_of_processes(process.pid)
                    clock.add(seen)
                    last = now
                    if seen.memory > limits.memory_mb * 2**20:
                        stopped = "memory"
                    elif clock.program > limits.cpu_seconds:
                        stopped = "timeout"
    except (OSError, ValueError, LookupError):
        stopped = "unwatched"
    finally:
        longest.cancel()
        os.close(alive)
        _kill(process)
        process.wait()
        _wait_for_end_of(verdict)
        process.stdout.close()
        os.close(verdict)
    stopped = stopped or ("timeout" if killed else "")
    return Seen(bytes(output[: limits.output_kb * 1024]), bytes(said), stopped)


class _Clock:
    """Adds up the processor times of a program and of its judge."""

    def __init__(self) -> None:
        self.program = self.judge = 0.0
        self._seen: dict[int, float] = {}

    def add(self, look: Look) -> None:
        self._seen |= look.program  # also processes that ended without being waited for
        self.program = max(self.program, sum(self._seen.values()), sum(look.program.values()) + look.reaped)
        self.judge = max(self.judge, look.judge)


class _Process(NamedTuple):
    memory: int
    own: float
    reaped: float
    namespaces: list[bytes]  # its number in each process namespace, from ours inwards
    children: list[int]


def state_of_processes(root: int) -> Look:
    """The state of a process and all its descendants; empty where the system has no /proc.

    The judge is process 1 of a namespace, or ``root`` itself without one. A process whose parent ended becomes the
    judge's child, so its children are read again until there are no new ones. Raises OSError, ValueError or LookupError
    for a process that lives and cannot be read, or no end of new ones.
    """
    processes: dict[int, _Process] = {}
    judge, waiting = root, [root]
    deadline = time.monotonic() + _LOOK_SECONDS
    while waiting:
        if time.monotonic() > deadline:
            raise TimeoutError("new processes start as fast as they are read")
        pid = waiting.pop()
        with contextlib.suppress(*_ENDED):
            processes[pid] = process = _read(pid)
            if len(process.namespaces) > 1 and process.namespaces[-1] == b"1":
                judge = pid
            waiting += process.children
        if not waiting:
            with contextlib.suppress(*_ENDED):
                waiting = [child for child in _children(judge) if child not in processes]
    depth = len(processes[judge].namespaces) if judge in processes else 0
    program = {pid: it for pid, it in processes.items() if pid != judge and len(it.namespaces) >= depth}
    return Look(
        memory=sum(it.memory for it in processes.values()),
        program={pid: it.own for pid, it in program.items()},
        reaped=sum(it.reaped for it in program.values()),
        judge=processes[judge].own if judge in processes else 0.0,
    )


_ENDED = (FileNotFoundError, ProcessLookupError)  # errors of a process that ended before it was read


def _read(pid: int) -> _Process:
    """One process, from lines that hold its name, which the program sets to any bytes but a line's end."""
    folder = Path(f"/proc/{pid}")
    status = {name: value.split() for name, value in _FIELD.findall((folder / "status").read_bytes())}
    memory = sum(int(status[name][0]) * 1024 for name in (b"VmRSS", b"VmSwap") if name in status)
    fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()  # those before hold its name, in brackets
    times = [int(ticks) * _TICK for ticks in fields[11:15]]
    return _Process(memory, sum(times[:2]), sum(times[2:]), status[b"NSpid"], _children(pid))


def _children(pid: int) -> list[int]:
    """Children of all threads; the kernel lists each thread's own."""
    pids: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(*_ENDED):
            pids += map(int, (thread / "children").read_bytes().split())
    return pids


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _wait_for_end_of(verdict: int) -> None:
    """Wait until the judge is gone, which alone holds the other end; then all processes of its namespace are gone."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and select.select([verdict], [], [], deadline - time.monotonic())[0]:
        if not os.read(verdict, 2**16):
            return
