"""Numbers of things in sentences."""

from __future__ import annotations


def counted(n: int, what: str) -> str:
    """``1 item``, ``2 items``, ``1,234 items``."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def of_test_set(num_items: int, test_set: int | None, split: str) -> str:
    """The part of a benchmark's test set that was asked.

    Args:
        num_items: that were asked.
        test_set: items of the whole test set; None where there is none.
        split: ``report`` where other items of the test set chose layers or healed.

    >>> of_test_set(164, 164, "full"), of_test_set(50, 1319, "full"), of_test_set(64, None, "")
    ('full test set, 164', 'part of the test set, 50 of 1,319', '')
    >>> of_test_set(76, 164, "report")
    'rest of the test set, 76 of 164'
    """
    if test_set is None:
        return ""
    if num_items >= test_set:
        return f"full test set, {test_set:,}"
    return f"{'rest' if split == 'report' else 'part'} of the test set, {num_items:,} of {test_set:,}"
