"""Count how far a reader walks to follow a verb: python tools/walks.py

Each verb runs on a tiny model. A stop is a function that was called from another file; functions that are called again
count once. What every job shares is left out: settings, errors, runs, progress, text, loading of a model, the inside of
the engine and what belongs to one task.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SHARED = (
    "runs/", "progress/", "text/", "models/", "engine/", "sandbox/", "settings.py", "base_settings.py", "errors.py",
    "seed.py", "engines.py", "known_tasks.py", "cli/main.py", "cli/console.py", "cli/options.py", "verbs/base.py",
    "verbs/__init__.py", "tasks/base.py", "tasks/brackets.py", "tasks/copying.py", "__init__.py",
)  # fmt: skip
JOBS = {
    "prune": "prune {model} --tasks tests.support.studies:bright --items 8 --keep 0.5 --units layer "
    "--smaller 20% --heal seam --anyway --out pruned",
    "heal": "heal last --teacher {model} --prompts task:copy --limit 8 --keep-unfinished --max-new-tokens 4 "
    "--max-steps 1 --out healed",
    "eval": "eval {model} --tasks tests.support.studies:bright --remove 3 --limit 8 --out scored",
    "cut": "cut {model} --remove 3-4 --out cut",
}


class Walk:
    """Files and stops of one job."""

    def __init__(self) -> None:
        import layercut

        self.root = f"{Path(layercut.__file__).parent}/"
        self.files: dict[str, None] = {}
        self.stops: dict[tuple[str, str], None] = {}

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """See sys.setprofile."""
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(self.root) or code.co_name.startswith("<"):
            return
        file = code.co_filename.removeprefix(self.root)
        outer = frame.f_back
        while outer is not None and not outer.f_code.co_filename.startswith(self.root):
            outer = outer.f_back
        came_from = outer.f_code.co_filename.removeprefix(self.root) if outer else ""
        if file.startswith(SHARED) or file == came_from or (outer and outer.f_code.co_name == "<module>"):
            return
        self.files[file] = None
        self.stops[file, code.co_qualname] = None


def walk(command: str, model: Path) -> Walk:
    """Run one command line and count."""
    from layercut.cli.main import main

    sys.argv = ["layercut", *command.format(model=model).split()]
    found = Walk()
    sys.setprofile(found)
    try:
        main()
    except SystemExit as end:
        assert not end.code, f"{command} failed"
    finally:
        sys.setprofile(None)
    return found


def main_() -> None:
    """Print the numbers of each verb; with LIST=1 in the environment, the stops as well."""
    import layercut
    from tests.support.tiny import save_tiny

    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        model = save_tiny("llama", Path(scratch) / "tiny")
        layercut.cut(model, "reverse:1", "last", progress=False)
        found = {}
        for verb, command in JOBS.items():
            read, write = os.dup(1), os.open(os.devnull, os.O_WRONLY)
            os.dup2(write, 1)
            one = walk(command, model)
            sys.stdout.flush()
            os.dup2(read, 1)
            found[verb] = {"files": len(one.files), "stops": len(one.stops)}
            if os.environ.get("LIST"):
                for stop in one.stops:
                    print(verb, *stop)
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main_()
