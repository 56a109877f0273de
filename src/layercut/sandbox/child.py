"""Entry script of a sandboxed process: isolate the process, then judge the program.

    python child.py CONFIG VERDICT_FD ALIVE_FD < JOB

Standard library only, and never imported by layercut: it is started as a script. It isolates itself with Linux
namespaces (mode ``namespaces``), runs inside bubblewrap (``bubblewrap``), or runs without isolation (``none``). Limits
on memory, processor time, processes and file size are set in every mode. If the setup fails, the process ends with a
line on standard error before any of the program runs.

Namespaces (user_namespaces(7), pivot_root(2)): a new user, mount, process, network, IPC, host name and cgroup
namespace; a root folder in memory that holds nothing but the interpreter's files, read-only, five harmless devices and
one small writable folder, /tmp; no /proc; no capability and no way to get one. The program runs as an unprivileged user
also where layercut runs as root, because the kernel exempts root from the limit on processes.

In every mode the program has a keyring of its own, and may make the system calls of ``filter.py`` alone; in
mode ``none`` only where the kernel can do that.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import Any

_NOBODY = 65534
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
_CLONE_NEW = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
_MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE, _MS_RDONLY = 2, 4, 32, 4096, 16384, 1 << 18, 1
_MNT_DETACH = 2
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}
_SYS_MOUNT_SETATTR = 442
_SYS_KEYCTL = {"x86_64": 250, "aarch64": 219}
_KEYCTL_JOIN_SESSION_KEYRING = 1
_MAX_FILES = 4096
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID = 0x1, 0x2
_CAPABILITY_VERSION_3 = 0x20080522
_DEVICES = ("null", "zero", "full", "random", "urandom")


def enter(config: dict[str, Any]) -> Any:
    """Shut this process in as ``config`` says, and return the module that judges."""
    judge, calls = _load(config["judge"]), _load(config["filter"])
    mode, user = config["mode"], config["uid"]
    if mode == "namespaces":
        _enter_namespaces()
        _build_root(config["binds"], config["links"], config["limits"]["disk_mb"])
    elif mode == "bubblewrap":
        _limit_files(config["limits"]["disk_mb"])
        if user is not None:
            _become(user)
    elif user is not None:
        os.chown(".", user, user)
        _become(user)
        _can_read([os.__file__, config["packages"]])
    _forget_keys()
    if mode != "none":
        _drop_capabilities()
        os.chdir("/tmp")
        for name in ("home", "work"):
            Path(name).mkdir(0o700)
        os.chdir("work")
    _set_limits(config["limits"], processes=mode != "none" or user is not None)
    sys.path.append(config["packages"])
    _filter_calls(calls, required=mode != "none")
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


def _enter_namespaces() -> None:
    """Go on as process 1 of new namespaces. The old process waits, and takes the new one with it when it is killed."""
    _libc("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    is_root = os.geteuid() == 0
    outside = (_NOBODY, _NOBODY) if is_root else (os.geteuid(), os.getegid())
    flags = sum(_CLONE_NEW.values())
    if is_root:
        os.setgroups([])
        # A process inside may map only its own user; root outside may map any. So a helper stays outside.
        inside, tell = os.pipe()
        helper, me = os.fork(), os.getpid()
        if helper == 0:
            os.close(tell)
            if os.read(inside, 1):
                _write_maps(os.getppid(), *outside)
            os._exit(0)
        assert os.getpid() == me
        _libc("unshare", flags)
        os.write(tell, b"!")
        if os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1]):
            raise OSError("the user of the new namespace could not be mapped")
        os.close(tell)
        os.close(inside)
    else:
        _libc("unshare", flags)
        _write_maps(os.getpid(), *outside)
    with contextlib.suppress(OSError):  # no namespaces within: an attack surface that no program here needs
        Path("/proc/sys/user/max_user_namespaces").write_text("0", encoding="ascii")
    child = os.fork()
    if child:
        os._exit(max(0, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) & 255)


def _write_maps(process: int, uid: int, gid: int) -> None:
    folder = Path(f"/proc/{process}")
    (folder / "setgroups").write_text("deny", encoding="ascii")
    (folder / "uid_map").write_text(f"{_NOBODY} {uid} 1", encoding="ascii")
    (folder / "gid_map").write_text(f"{_NOBODY} {gid} 1", encoding="ascii")


def _become(user: int) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _can_read(paths: list[str]) -> None:
    """Raise OSError for what the new user cannot read, such as an interpreter below /root."""
    for path in paths:
        if path and not os.access(path, os.R_OK):
            raise OSError(f"programs of root run as another user, who cannot read {path}")


def _forget_keys() -> None:
    """A keyring of our own in place of the one that this process was started with."""
    number = _SYS_KEYCTL.get(os.uname().machine)
    if number:
        with contextlib.suppress(OSError):  # no keyrings in this kernel, or none for this container
            _libc("syscall", number, _KEYCTL_JOIN_SESSION_KEYRING, None)


def _filter_calls(calls: Any, required: bool) -> None:
    try:
        _libc("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        calls.install()
    except (OSError, AttributeError):  # not Linux
        if required:
            raise


def _limit_files(disk_mb: int) -> None:
    """A /tmp with a limit on the number of files, which bubblewrap cannot give. Where mounting is forbidden, as by
    AppArmor, the judge counts them."""
    with contextlib.suppress(OSError):
        _libc("unshare", _CLONE_NEW["mount"])  # bubblewrap's own may belong to a user namespace above
        _mount_files("/tmp", disk_mb)
    with contextlib.suppress(OSError):
        Path("/tmp").chmod(0o1777)


def _mount_files(place: str, disk_mb: int) -> None:
    options = f"size={disk_mb}m,nr_inodes={_MAX_FILES},mode=0700"
    _mount("tmpfs", place, "tmpfs", _MS_NOSUID | _MS_NODEV, options)


def _build_root(binds: dict[str, str], links: dict[str, str], disk_mb: int) -> None:
    """Replace the file system by one in memory with ``binds`` (place inside: place outside), read-only, and /tmp."""
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    binds = binds | {f"/dev/{name}": f"/dev/{name}" for name in _DEVICES}
    # Opened before the change of user, who may not be allowed to reach them (a virtual environment below /root).
    opened = {inside: os.open(outside, os.O_PATH) for inside, outside in binds.items()}
    _become(_NOBODY)
    _libc("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # a change of user clears it
    root = Path("/tmp")
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=0755")
    for inside, descriptor in sorted(opened.items()):
        place = root / inside.lstrip("/")
        source = f"/proc/self/fd/{descriptor}"
        if Path(source).is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        _mount(source, str(place), None, _MS_BIND | _MS_REC)
        if not inside.startswith("/dev/"):
            _read_only(str(place))
        os.close(descriptor)
    for inside, target in links.items():
        (root / inside.lstrip("/")).symlink_to(target)
    for name in ("tmp", "old"):
        (root / name).mkdir()
    _mount_files("/tmp/tmp", disk_mb)
    os.chdir("/tmp")
    _libc("syscall", _SYS_PIVOT_ROOT[os.uname().machine], b".", b"old")
    os.chdir("/")
    _libc("umount2", b"/old", _MNT_DETACH)
    Path("/old").rmdir()
    _mount("none", "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV)
    _libc("sethostname", b"sandbox", 7)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    try:
        _libc("mount", source.encode(), target.encode(), kind and kind.encode(), flags, options.encode() or None)
    except OSError as error:
        raise OSError(error.errno, f"mounting {target}: {error.strerror}") from error


def _read_only(place: str) -> None:
    """Make a mount and all below it read-only and without set-user-id programs."""
    attributes = struct.pack("QQQQ", _ATTR_RDONLY | _ATTR_NOSUID, 0, 0, 0)
    size = ctypes.c_size_t(len(attributes))
    _libc("syscall", _SYS_MOUNT_SETATTR, _AT_FDCWD, place.encode(), _AT_RECURSIVE, attributes, size)


def _drop_capabilities() -> None:
    """No capability now, and none by any program that is started later."""
    for capability in range(64):
        _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _libc("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
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
        judge = enter(setup)
    except Exception as error:
        print(f"sandbox: {error}", file=sys.stderr)
        sys.exit(99)
    # What fails from here on is due to the program, and fails it alone.
    judge.judge(int(sys.argv[2]), int(sys.argv[3]), "/tmp" if setup["mode"] == "bubblewrap" else None, _MAX_FILES)
