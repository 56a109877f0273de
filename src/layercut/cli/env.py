"""``layercut env``: versions and machine, for bug reports."""

from __future__ import annotations

from layercut.cli import options
from layercut.cli.console import show


def env(json: options.Json = False) -> None:
    """Print versions, machine and devices, to paste into a bug report."""
    import torch  # noqa: F401  so that devices are listed

    from layercut.runs.environment import collect
    from layercut.sandbox.runner import describe_or_why_not as sandbox

    data = collect() | {"sandbox": sandbox()}
    pairs = (
        {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {key: value}
        for key, value in data.items()
    )
    show(data, lines=(f"{key}: {value}" for pair in pairs for key, value in pair.items()), json=json)
