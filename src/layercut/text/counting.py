"""Numbers of things in sentences."""

from __future__ import annotations


def counted(n: int, what: str) -> str:
    """``1 item``, ``2 items``, ``1,234 items``."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
