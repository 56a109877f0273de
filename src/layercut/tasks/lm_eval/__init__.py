"""Tasks of the LM Evaluation Harness (lm-eval): its own prompts and grades, answered by our engines.

The only package that imports lm-eval to ask its tasks. Gao et al., "The Language Model Evaluation Harness",
doi:10.5281/zenodo.12608602. See docs/how_to/lm_eval_and_peft.md.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def own_task_folder(name: str) -> tuple[Path | None, str]:
    """The folder and the bare name of a task of one's own, ``my_tasks/sciq_de``; None for a task of lm-eval."""
    folder, slash, bare = name.rpartition("/")
    return (Path(folder or "/"), bare) if slash else (None, name)


def has_lm_eval() -> bool:
    """True if lm-eval is installed."""
    try:
        return find_spec("lm_eval") is not None
    except ValueError:  # a module that was removed by hand
        return False
