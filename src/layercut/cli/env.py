"""``layercut env``: versions and machine, for bug reports."""

from __future__ import annotations

from layercut.cli import options
from layercut.cli.console import as_json, result


def env(json: options.Json = False) -> None:
    """Print versions, machine and devices, to paste into a bug report."""
    import torch  # noqa: F401  so that devices are listed

    from layercut.runs.environment import collect
    from layercut.sandbox.runner import describe_or_why_not as sandbox

    data = collect() | {"sandbox": sandbox()}
    if json:
        as_json(data)
        return
    for key, value in data.items():
        if isinstance(value, dict):
            for name, inner in value.items():
                result(f"{key}.{name}: {inner}")
        else:
            result(f"{key}: {value}")
