"""A mistake in a name is answered before anything heavy is imported, converted or fetched."""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from layercut.surgery.checkpoint import cut_checkpoint
from layercut.surgery.plan import CutPlan

HEAVY = ("torch", "transformers", "lm_eval", "vl_convert", "scipy.stats")
MAIN = f"""
import contextlib, io, json, sys
from layercut.cli.main import main

seen = set()
for command in json.load(sys.stdin):
    stderr, sys.argv = io.StringIO(), ["layercut", *command]
    try:
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
            main()
        code = 0
    except SystemExit as end:
        code = end.code
    loaded = {{*sys.modules}} & {{*{HEAVY!r}}}
    print(json.dumps([code, stderr.getvalue(), sorted(loaded - seen)]))
    seen |= loaded
"""
"""Runs command lines one by one, and prints the exit code, stderr and newly loaded heavy libraries of each."""
STUDY = {"plans": ["reverse:1"], "tasks": ["copy"], "out": "runs/x"}
HEALING = {"name": "healed", "prompts": "task:copy"}
HEAL = "heal CUT --teacher MODEL --prompts task:copy --out OUT"

FLAGS = {
    "task": ("eval MODEL --tasks arithmetc", "Did you mean arithmetic?"),
    "examples": ("eval MODEL --tasks copy:5", "copy:5 takes no num_shots"),
    "suite": ("eval MODEL --tasks suite:bulitin", "Did you mean builtin?"),
    "readout": ("eval MODEL --tasks copy --readouts shrt", "Did you mean short?"),
    "option": ("eval MODEL --tasks copy --max-new-tokens 5", "takes no --max-new-tokens"),
    "removed layer": ("eval MODEL --tasks copy --remove 3,99", "layer 99 is not in"),
    "criterion of a plan": ("eval MODEL --tasks copy --remove revers:3", "Did you mean reverse?"),
    "dtype": ("eval MODEL --tasks copy --dtype flot32", "Did you mean float32?"),
    "device": ("eval MODEL --tasks copy --device cdua", "Did you mean cuda?"),
    "engine": ("eval MODEL --tasks copy --engine shard", "Did you mean shared?"),
    "top-p": ("eval MODEL --tasks copy --top-p 0", "--top-p 0.0 is too small; write a number above 0"),
    "use of a prune": ("prune MODEL --use mth", "Did you mean math?"),
    "task of a prune": ("prune MODEL --tasks arithmetc", "Did you mean arithmetic?"),
    "healing of a prune": ("prune MODEL --use math --heal saem", "Did you mean seam?"),
    "no goal": ("prune MODEL", "neither was given"),
    "two goals": ("prune MODEL --use math --tasks copy", "one of the two"),
    "share to keep": ("prune MODEL --use math --keep 1.5", "--keep"),
    "time of a prune, which ended": ("prune MODEL --use math --time 2h", "No such option: --time"),
    "data of a prune": ("prune MODEL --use math --data xsum=x", "is not among the tasks"),
    "share of a cut": ("cut MODEL --out OUT --remove 120%", "is no depth"),
    "criterion": ("select MODEL --criterion block_influnce --remove 1layer", "Did you mean block_influence?"),
    "objective": ("select MODEL --criterion task_accuracy --remove 1layer --objective coppy", "Did you mean copy?"),
    "race": ("select MODEL --criterion task_accuracy --remove 1layer --objective copy --race exakt", "mean exact?"),
    "protected layer": ("select MODEL --criterion perplexity --remove 1layer --protect 9", "layer 9 is not in"),
    "number of layers": ("select MODEL --criterion perplexity --remove 6layers", "cannot remove 6 layers"),
    "no objective": ("select MODEL --criterion task_accuracy --remove 1layer", "name the tasks: --objective"),
    "cut layer": ("cut MODEL --out OUT --remove 99", "layer 99 is not in"),
    "cut plan": ("cut MODEL --out OUT --remove three", "'three' is not a plan"),
    "swept task": ("sweep MODEL --objective coppy", "Did you mean copy?"),
    "swept layer": ("sweep MODEL --objective copy --layers 2-99", "layer 99 is not in"),
    "diagnostic": ("diagnose MODEL reverse:1 --only brakets", "Did you mean brackets?"),
    "diagnosed layer": ("diagnose MODEL 99", "layer 99 is not in"),
    "each diagnosed layer": ("diagnose MODEL each:4-6", "layer 6 is not in"),
    "each diagnosed layer of none": ("diagnose MODEL each:all", "is not a layer"),
    "prompted layer": ("generate MODEL --prompt hi --remove 99", "layer 99 is not in"),
    "prompts": ("generate MODEL --prompts task:coppy --out OUT", "Did you mean copy?"),
    "preset": ("generate MODEL --prompt hi --preset papre", "Did you mean paper?"),
    "taught task": ("heal CUT --teacher MODEL --prompts task:coppy --out OUT", "Did you mean copy?"),
    "method": (f"{HEAL} --method lroa", "Did you mean lora?"),
    "responses": (f"{HEAL} --responses slef", "Did you mean self?"),
    "decontaminate": (f"{HEAL} --decontaminate gms8k", "gsm8k?"),
    "flag": ("eval MODEL --tsks copy", "No such option: --tsks"),
    "verb": ("evl MODEL", "No such command 'evl'"),
    "verb with a letter too few": ("prun x", "Did you mean 'prune'"),
    "verb of another library": ("evaluate x", "Did you mean 'eval'"),
    "verb with another dash": ("plan_size x", "Did you mean 'plan-size'"),
    "option without value": ("cut", "Missing argument 'MODEL'"),
    "layer named twice": ("cut MODEL --out OUT --remove 1,1", "named more than once"),
    "all layers": ("cut MODEL --out OUT --remove 0-5", "all 6 decoder layers would be removed"),
    "no folder": ("cut MODEL --remove 2", "no folder to write to"),
    "no layers": ("cut MODEL --out OUT", "no layers are named"),
    "criterion of a cut": ("cut MODEL --out OUT --remove block_influence:2", "Choose the layers first: layercut"),
    "readout of another task": ("eval MODEL --tasks copy --readouts chain", "unknown readout of copy"),
    "data of another task": ("eval MODEL --tasks copy --data gsm8k=x", "not among the tasks"),
    "data without a task": ("eval MODEL --tasks copy --data copy", "is not TASK=PATH"),
    "folder of data": ("eval MODEL --tasks copy --data-dir no/such", "no such folder"),
    "no task": ("eval MODEL --out OUT", "or suite:builtin"),
    "nothing swept": ("sweep MODEL", "Missing option '--objective'"),
    "diagnosed name": ("diagnose MODEL nowhere", "is not a plan"),
    "right answers of its own": (f"{HEAL} --objective grpo --right-only", "so --right-only has no meaning"),
    "per cent of a score": ("report nodir --keep 90", "--keep 90 is no share; write 90% or 0.9"),
    "per cent of a baseline": ("plan-size --baseline 60 --retention 90%", "--baseline 60 is no share"),
    "per cent of a retention": ("plan-size --baseline 60% --retention 90", "--retention 90 is no share"),
}
KEYS = {
    "key": ({"tsks": ["copy"]}, "Did you mean tasks?"),
    "task": ({"tasks": ["coppy"]}, "Did you mean copy?"),
    "readout": ({"tasks": [{"task": "copy", "readouts": ["shrt"]}]}, "Did you mean short?"),
    "layer": ({"plans": ["3,99"]}, "layer 99 is not in"),
    "criterion": ({"criteria": ["block_influnce"], "depths": [1]}, "Did you mean block_influence?"),
    "race": ({"criteria": [{"criterion": "reverse", "race": "exakt"}], "depths": [1]}, "Did you mean exact?"),
    "protect": ({"criteria": [{"criterion": "perplexity", "protect": "66"}], "depths": [1]}, "layer 66 is not in"),
    "objective": ({"criteria": [{"criterion": "task_accuracy", "objective": ["coppy"]}], "depths": [1]}, "mean copy?"),
    "depth": ({"criteria": ["reverse"], "depths": [6]}, "depth 6 leaves no layer of 6"),
    "method": ({"healing": [{**HEALING, "method": "lroa"}]}, "Did you mean lora?"),
    "prompts": ({"healing": [{**HEALING, "prompts": "task:coppy"}]}, "Did you mean copy?"),
    "decoding": ({"decoding": {"temprature": 1.0}}, "Did you mean temperature?"),
    "dtype": ({"dtype": "flot32"}, "Did you mean float32?"),
}


DRY = (
    "eval MODEL --tasks copy --remove reverse:2",
    "select MODEL --criterion task_accuracy --objective copy --remove 2layers --out OUT",
    "sweep MODEL --objective copy --out OUT",
    "diagnose MODEL reverse:1 CUT --out OUT",
    "cut MODEL --remove 3 --out OUT",
    "generate MODEL --prompts task:copy --out OUT",
    f"{HEAL} --method lora",
    "prune MODEL --use copy --out OUT",
    "run STUDY",
)


class Answer(NamedTuple):
    code: int
    err: str
    heavy: list[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("startup")


@pytest.fixture(scope="module")
def answers(tiny: Path, folder: Path) -> dict[tuple[str, str], Answer]:
    """What one process answers to all of these command lines."""
    from tests.unit.models.gguf_maker import write_gguf

    places = {"MODEL": str(tiny), "CUT": str(folder / "cut"), "OUT": str(folder / "out")}
    commands = {("flag", name): [places.get(word, word) for word in FLAGS[name][0].split()] for name in FLAGS}
    for name, (given, _) in KEYS.items():
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump({"model": str(tiny), **STUDY, **given}), encoding="utf-8")
        commands["key", name] = ["run", str(file)]
    file = write_gguf(folder / "tiny.gguf")
    commands["layer", "gguf"] = ["eval", str(file), "--tasks", "copy", "--remove", "99"]
    return dict(zip(commands, answers_to([*commands.values()]), strict=True))


def answers_to(commands: list[list[str]]) -> list[Answer]:
    """What one process answers to command lines."""
    text = json.dumps(commands)
    ran = subprocess.run([sys.executable, "-c", MAIN], input=text, capture_output=True, text=True, check=False)
    lines = ran.stdout.splitlines()
    assert len(lines) == len(commands), ran.stderr
    return [Answer(*json.loads(line)) for line in lines]


def refused(answer: Answer, message: str) -> None:
    """The command ends with this message, and nothing heavy was imported for it."""
    assert answer.code in (1, 2) and message in " ".join(answer.err.replace("│", " ").split()), answer.err
    assert "Traceback" not in answer.err and answer.err.count("error:") == (answer.code == 1), answer.err
    assert answer.heavy == []


@pytest.mark.parametrize("mistake", FLAGS)
def test_a_mistake_on_the_command_line_is_answered_at_once(mistake, answers):
    refused(answers["flag", mistake], FLAGS[mistake][1])


@pytest.mark.parametrize("mistake", KEYS)
def test_a_mistake_in_a_study_file_is_answered_at_once(mistake, answers):
    refused(answers["key", mistake], KEYS[mistake][1])


def test_layers_of_a_gguf_file_are_counted_before_it_is_converted_and_no_mistake_leaves_a_file(answers, folder):
    assert {file.name for file in folder.iterdir()} == {"tiny.gguf", *(f"{name}.yaml" for name in KEYS)}
    refused(answers["layer", "gguf"], "layer 99 is not in")


@pytest.mark.usefixtures("shared_cache")
def test_a_second_dry_run_loads_neither_torch_nor_transformers(layercut, tiny, tmp_path):
    cut_checkpoint(tiny, CutPlan(num_layers=6, removed=(5,)), tmp_path / "cut")
    study = {**STUDY, "model": str(tiny), "device": "cpu", "healing": [HEALING], "out": str(tmp_path / "study")}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    places = {"MODEL": tiny, "CUT": tmp_path / "cut", "OUT": tmp_path / "out", "STUDY": tmp_path / "study.yaml"}
    commands = [[str(places.get(word, word)) for word in f"{one} --dry-run".split()] for one in DRY]
    commands = [one if one[0] == "run" else [*one, "--device", "cpu"] for one in commands]
    for command in commands:
        assert layercut(*command).code == 0, command
    for command, answer in zip(commands, answers_to(commands), strict=True):
        assert (answer.code, answer.heavy) == (0, []), (command, answer.err)
    assert not (tmp_path / "out").exists()


def test_warnings_of_libraries_about_their_next_versions_are_not_shown(tiny, tmp_path):
    own = tmp_path / "own_task.py"
    own.write_text("import warnings\ndef task():\n    warnings.warn('old', FutureWarning)\n    raise SystemExit(3)\n")
    command = ["layercut", "eval", str(tiny), "--tasks", "own_task:task", "--dry-run"]
    code = f"""
import sys, warnings
sys.path.insert(0, {str(tmp_path)!r})
from layercut.cli.main import main
sys.argv = {command!r}
for options in ([], ["default"]):
    sys.warnoptions[:] = options
    warnings.resetwarnings()
    try:
        main()
    except SystemExit as end:
        print("ended with", end.code, file=sys.stderr)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    first, second, _ = ran.stderr.split("ended with 3")
    assert "FutureWarning" not in first, first
    assert "FutureWarning: old" in second
