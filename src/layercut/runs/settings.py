"""config.yaml: the settings of a run, and the message for a command with different ones."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import yaml

from layercut.errors import InputError, RunMismatch
from layercut.runs.atomic import write_text
from layercut.runs.environment import hide_home
from layercut.runs.json_text import check_depth, load, read_small

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FORMAT_VERSION = 1
CONFIG = "config.yaml"
_HEADER = "# Settings of this layercut run. A run goes on only with the same settings: leave this file as it is.\n"
_MISSING = object()


def settings_hash(settings: Mapping[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 of the settings, whatever the order of their names."""
    canonical = json.dumps(plain(settings), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as they will be read back: tuples are lists, names are strings."""
    read_back: dict[str, Any] = json.loads(json.dumps(dict(settings), allow_nan=False))
    return read_back


def write_config(path: Path, settings: Mapping[str, Any]) -> None:
    """Write a run folder's config.yaml."""
    head = {"format_version": FORMAT_VERSION, "settings_hash": settings_hash(settings)}
    data = {**head, "settings": plain(settings)}
    write_text(path / CONFIG, _HEADER + yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120))


def read_config(path: Path) -> dict[str, Any]:
    """The settings of a run folder.

    Raises:
        InputError: no readable config.yaml of layercut in the folder, or one of an unknown format.
        RunMismatch: somebody changed the file.
    """
    file = path / CONFIG
    try:
        data = yaml.safe_load(read_small(file))
        check_depth(data)
    except RecursionError as error:
        raise InputError(f"{shown(file)} cannot be read (nested too deep). Use another --out.") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{shown(file)} cannot be read ({str(error).splitlines()[0]}). Use another --out.") from error
    if not isinstance(data, dict) or not isinstance(data.get("settings"), dict) or "settings_hash" not in data:
        raise InputError(f"{shown(path)} is not a run folder: its {CONFIG} is not from layercut. Use another --out.")
    check_version(data.get("format_version"), file)
    settings: dict[str, Any] = data["settings"]
    if data["settings_hash"] != settings_hash(settings):
        raise RunMismatch(
            f"{shown(file)} was changed after the run was begun, so its results no longer belong to its settings. "
            "Undo the change, or use another --out."
        )
    return settings


def check_version(version: object, file: Path) -> None:
    """Refuse a file of a format that this layercut does not know."""
    if version != FORMAT_VERSION:
        raise InputError(f"{shown(file)}: format {version!r} is not known here; this layercut reads {FORMAT_VERSION}.")


def read_format(file: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file of layercut's own; ``what`` names it for messages.

    Raises:
        InputError: there is none, or it is damaged or of an unknown format.
    """
    try:
        data = load(file)
    except OSError as error:
        raise InputError(f"{shown(file)}: no {what} can be read here ({error.strerror}).") from error
    except ValueError as error:
        raise InputError(f"{shown(file)} is damaged: it is not JSON ({error}).") from error
    check_version(data.get("format_version") if isinstance(data, dict) else None, file)
    found: dict[str, Any] = data
    return found


def check_same(
    path: Path,
    had: Mapping[str, Any],
    wanted: Mapping[str, Any],
    *,
    flags: Mapping[str, str] | None = None,
    settings_file: str | None = None,
) -> None:
    """Refuse to go on with a run under other settings, naming the first that differs and the flag that mends it.

    Args:
        path: the run folder.
        had: settings the run was begun with.
        wanted: settings of the command.
        flags: flags of nested settings by the last part of their name, such as ``{"limit": "--limit"}`` for
            ``tasks.copy.limit``. A setting that is not nested has the flag of its own name.
        settings_file: the YAML file that ``wanted`` comes from, where it does not come from flags.

    Raises:
        RunMismatch: "runs/l8-bi was begun with seed 0, this command says seed 1. Use --seed 0, or another --out."
    """
    for name, before, now in _differences(had, wanted):
        was = f"without {name}" if before is _MISSING else f"with {name} {_word(before)}"
        says = f"has no {name}" if now is _MISSING else f"says {name} {_word(now)}"
        source = "this command" if settings_file is None else hide_home(settings_file)
        way_back = _in_file(name, before) if settings_file is not None else _by_flag(name, before, flags or {})
        raise RunMismatch(f"{shown(path)} was begun {was}, {source} {says}. {way_back}, or use another --out.")


def shown(path: Path) -> str:
    """A path for messages."""
    return hide_home(str(path))


def _by_flag(name: str, before: Any, flags: Mapping[str, str]) -> str:
    flag = flags.get(name.rsplit(".", 1)[-1], "" if "." in name else f"--{name.replace('_', '-')}")
    if not flag or isinstance(before, dict):  # no flag holds it, such as the hash of the model
        return "Go back to what it was"
    if before is _MISSING or before is None or before == []:
        return f"Leave out {flag}"
    if isinstance(before, bool):
        return f"Use {flag if before else '--no-' + flag[2:]}"
    return f"Use {flag} {_word(before)}"


def _in_file(name: str, before: Any) -> str:
    if before is _MISSING:
        return f"Take {name} out again"
    return f"Set {name} back to {_word(before)}"


def _differences(had: Any, wanted: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(had, dict) and isinstance(wanted, dict):
        for key in dict.fromkeys([*had, *wanted]):
            yield from _differences(had.get(key, _MISSING), wanted.get(key, _MISSING), f"{name}.{key}" if name else key)
    elif isinstance(had, list) and isinstance(wanted, list) and had != wanted and _labels(had) == _labels(wanted) != []:
        for label, before, now in zip(_labels(had), had, wanted, strict=True):
            yield from _differences(before, now, f"{name}.{label}")
    elif had != wanted or isinstance(had, bool) is not isinstance(wanted, bool):
        yield name, had, wanted


def _labels(values: list[Any]) -> list[str]:
    """Names of the entries of a list of settings, such as ``copy/short``; none for any other list."""
    labels = [_label(value) for value in values]
    return labels if all(labels) else []


def _label(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    return "/".join(str(value[key]) for key in ("task", "name", "readout") if key in value)


def _word(value: Any) -> str:
    if isinstance(value, list):
        text = ",".join(_word(item) for item in value) or "(empty)"
    elif isinstance(value, dict):
        text = _label(value) or json.dumps(value, ensure_ascii=False)
    elif isinstance(value, bool) or value is None:
        text = {True: "on", False: "off", None: "none"}[value]
    else:
        text = hide_home(str(value))
    return text if len(text) <= 80 else text[:77] + "..."
