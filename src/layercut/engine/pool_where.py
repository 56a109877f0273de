"""Where the members of a pool live, as people write it."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl

from layercut.errors import InputError

_ADDRESS = re.compile(r"^(?:local:(?P<local>\d+)|(?P<cluster>ray://[\w.\-\[\]:]+|auto))(?:\?(?P<options>.*))?$")


class Where(NamedTuple):
    """Where members live, and how many there are."""

    address: str | None
    """Of a running cluster; None for processes of this machine."""
    members: int | None
    """None for as many as there are GPUs for, or one a machine where there are none."""
    gpus: float | None
    """For each member; None for one, where there are any."""

    @classmethod
    def parse(cls, text: str) -> Where:
        """``local:N`` or ``ray://HOST:PORT`` (or ``auto``, on a machine of the cluster), with ``?members=M&gpus=K``.

        >>> Where.parse("ray://head:10001?gpus=4")
        Where(address='ray://head:10001', members=None, gpus=4.0)

        Raises:
            InputError: neither of them, or other options.
        """
        match = _ADDRESS.match(text)
        options = dict(parse_qsl(match["options"] or "")) if match else {}
        try:
            members = int(options.pop("members")) if "members" in options else None
            gpus = float(options.pop("gpus")) if "gpus" in options else None
        except ValueError:
            match = None
        if match is None or options or (members is not None and members < 1) or (gpus is not None and gpus < 0):
            raise InputError(
                f"{text!r} is no engine pool; write local:2, ray://HOST:10001, or ray://HOST:10001?members=4&gpus=2."
            )
        if match["local"] is None:
            return cls(match["cluster"], members, gpus)
        if int(match["local"]) < 1 or members is not None:
            raise InputError(
                f"{text!r} does not say how many members; write local:2 for two processes of this machine."
            )
        return cls(None, int(match["local"]), gpus)
