"""Entry script of a sandboxed process: isolate the process, then judge the program.

    python child.py CONFIG VERDICT_FD ALIVE_FD < JOB

Standard library only, and never imported by layercut: it is started as a script, inside bubblewrap (mode
``bubblewrap``) or without isolation (``none``). Limits on memory, processor time, processes and file size are set in
both. If the setup fails, the process ends with a line on standard error before any of the program runs.

The program has no capability and no way to get one. It runs as an unprivileged user also where layercut runs as root,
because the kernel exempts root from the limit on processes.

In both modes the program has a keyring of its own, and may make the system calls of ``filter.py`` alone; in
mode ``none`` only where the kernel can do that.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import resource
import struct
import sys
from pathlib import Path
from typing import Any

_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_CLONE_NEW_MOUNT = 0x00020000
_MS_NOSUID, _MS_NODEV = 2, 4
_SYS_KEYCTL = {"x86_64": 250, "aarch64": 219}
_KEYCTL_JOIN_SESSION_KEYRING = 1
_MAX_FILES = 4096
_CAPABILITY_VERSION_3 = 0x20080522


def enter_sandbox(config: dict[str, Any]) -> Any:
    """Shut this process in as ``config`` says, and return the module that judges."""
    judge, calls = _load(config["judge"]), _load(config["filter"])
    mode, user = config["mode"], config["uid"]
    if mode == "bubblewrap":
        _limit_files(config["limits"]["disk_mb"])
        if user is not None:
            _become(user)
    elif user is not None:
        os.chown(".", user, user)
        _become(user)
        for path in (os.__file__, config["packages"]):  # such as an interpreter below /root
            if path and not os.access(path, os.R_OK):
                raise OSError(f"programs of root run as another user, who cannot read {path}")
    _forget_keys()
    if mode != "none":
        _drop_capabilities()
        os.chdir("/tmp")
        for name in ("home", "work"):
            Path(name).mkdir(0o700)
        os.chdir("work")
    _set_limits(config["limits"], processes=mode != "none" or user is not None)
    sys.path.append(config["packages"])
    try:
        _libc("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        calls.install_filter()
    except (OSError, AttributeError):  # not Linux
        if mode != "none":
            raise
    return judge


def _load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _libc(name: str, *arguments: Any) -> int:
    """Call a function of the C library; OSError where it fails."""
    code: int = getattr(_LIBC, name)(*arguments)
    if code == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return code


_LIBC = ctypes.CDLL(None, use_errno=True)


def _become(user: int) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _forget_keys() -> None:
    """A keyring of our own in place of the one that this process was started with."""
    number = _SYS_KEYCTL.get(os.uname().machine)
    if number:
        with contextlib.suppress(OSError):  # no keyrings in this kernel, or none for this container
            _libc("syscall", number, _KEYCTL_JOIN_SESSION_KEYRING, None)


def _limit_files(disk_mb: int) -> None:
    """A /tmp with a limit on the number of files, which bubblewrap cannot give. Where mounting is forbidden, as by
    AppArmor, the judge counts them."""
    with contextlib.suppress(OSError):
        _libc("unshare", _CLONE_NEW_MOUNT)  # bubblewrap's own may belong to a user namespace above
        options = f"size={disk_mb}m,nr_inodes={_MAX_FILES},mode=0700".encode()
        _libc("mount", b"tmpfs", b"/tmp", b"tmpfs", _MS_NOSUID | _MS_NODEV, options)
    with contextlib.suppress(OSError):
        Path("/tmp").chmod(0o1777)


def _drop_capabilities() -> None:
    """No capability now, and none by any program that is started later."""
    for capability in range(64):
        _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    _libc("capset", header, struct.pack("6I", 0, 0, 0, 0, 0, 0))


def _set_limits(limits: dict[str, int], processes: bool) -> None:
    """Without a user of our own the limit on processes would count those of the whole machine, so it is left out."""
    values = {
        "AS": limits["memory_mb"] * 2**20,
        "CPU": limits["cpu_seconds"],
        "FSIZE": limits["disk_mb"] * 2**20,
        "NOFILE": 64,
        "CORE": 0,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
    } | ({"NPROC": limits["processes"]} if processes else {})
    for name, value in values.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is not None:
            with contextlib.suppress(ValueError):  # already lower, or not on this system
                resource.setrlimit(kind, (value, value))


if __name__ == "__main__":
    setup = json.loads(sys.argv[1])
    try:
        judge = enter_sandbox(setup)
    except Exception as error:
        print(f"sandbox: {error}", file=sys.stderr)
        sys.exit(99)
    # What fails from here on is due to the program, and fails it alone.
    judge.judge_program(
        int(sys.argv[2]), int(sys.argv[3]), "/tmp" if setup["mode"] == "bubblewrap" else None, _MAX_FILES
    )
