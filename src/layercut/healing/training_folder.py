"""What stays in the folder of a training; importable without the training extras, which a seam does not need."""

from __future__ import annotations

import shutil
from pathlib import Path

FINAL = "final"


def remove_weights(folder: Path) -> None:
    """Remove what only continues a training: its checkpoints, with the optimizer's state, and ``final``.

    For a healing whose checkpoint is complete. The loss curve stays.
    """
    for path in (*Path(folder).glob("checkpoint-*"), Path(folder) / FINAL):
        shutil.rmtree(path, ignore_errors=True)
