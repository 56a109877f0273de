"""Memory that nothing refers to is returned to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import torch
from layercut.models.placement import give_back_memory

def taken():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))

torch.set_num_threads(1)
before = taken()
parts = [torch.ones(20_000) for _ in range(3000)]  # below the allocator's threshold, so from its own heap
kept = parts[::300]
full = taken()
del parts
freed = taken()
give_back_memory()
print(full - before, freed - before, taken() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_what_is_freed_is_returned() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    full, freed, returned = map(int, ran.stdout.split())
    assert full > 200_000, "in kB: 240 MB"
    assert freed > 0.5 * full, "the allocator keeps it"
    assert returned < 0.2 * full
