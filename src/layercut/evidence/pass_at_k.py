"""pass@k: the chance that at least one of k programs for a problem is right, estimated from n of them."""

from __future__ import annotations

from layercut.errors import InputError


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """The unbiased estimate from one problem: 1 - C(n - c, k) / C(n, k).

    It is the share of all sets of k out of the n programs that hold a right one. The naive 1 - (1 - c/n)^k draws the
    same program twice and comes out too low. Computed as 1 - prod over i of (1 - k / i), i from n - c + 1 to n, which
    overflows nowhere. Chen et al., "Evaluating Large Language Models Trained on Code", arXiv:2107.03374.

    >>> pass_at_k(2, 1, 1), pass_at_k(4, 1, 2), pass_at_k(5, 3, 3)
    (0.5, 0.5, 1.0)

    Args:
        num_samples: n, programs drawn for the problem.
        num_correct: c, how many of them pass.
        k: programs that one may show.

    Raises:
        InputError: k above n, or counts that cannot be.
    """
    if not 0 <= num_correct <= num_samples:
        raise InputError(f"{num_correct} right programs of {num_samples} cannot be; use 0 to {num_samples}.")
    if not 1 <= k <= num_samples:
        raise InputError(
            f"pass@{k} cannot be computed from {num_samples} programs; use 1 to {num_samples}, or draw more."
        )
    if num_samples - num_correct < k:
        return 1.0  # too few wrong ones to fill a set
    none_right = 1.0
    for i in range(num_samples - num_correct + 1, num_samples + 1):
        none_right *= 1.0 - k / i
    return 1.0 - none_right
