from __future__ import annotations

import math

import pytest
import torch

from layercut.diagnostics.similarity import cosines


def test_cosines_against_two_loops() -> None:
    torch.manual_seed(0)
    states, others = torch.randn(3, 4, 5), torch.randn(2, 4, 5)
    cosine, angle = cosines(states, others)
    for a in range(3):
        for b in range(2):
            each = [float(torch.cosine_similarity(states[a, t], others[b, t], dim=0)) for t in range(4)]
            assert float(cosine[a, b]) == pytest.approx(sum(each) / 4, abs=1e-6)
            assert float(angle[a, b]) == pytest.approx(sum(math.acos(c) / math.pi for c in each) / 4, abs=1e-6)
