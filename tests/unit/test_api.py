"""The public Python API: its names, and that its steps do what the verbs do."""

import ast
import copy
import inspect
import json
import pickle
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import layercut
from layercut.errors import InputError
from layercut.settings import CalibrationSettings, TaskSettings
from layercut.text import make_bare_table
from layercut.verbs import VERBS, verb_class
from layercut.verbs.base import Shown
from layercut.verbs.select import SelectVerb
from tests.support.pruning import choice_file, spare_model

SHORT = CalibrationSettings(num_texts=2, max_tokens=16)


def test_every_public_name_is_there_and_documented():
    promised = {"load_model", "CutPlan", "remove_layers", "select_layers", "evaluate", "heal"}
    promised |= {"prune", "run_study", "sweep", "compare"}
    assert promised < set(layercut.__all__) == set(dir(layercut))
    for name in layercut.__all__:
        assert name == "__version__" or getattr(layercut, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'prunes'"):
        _ = layercut.prunes


STUDY: dict[str, Any] = {"out": "o", "plans": {"last": "reverse:1"}, "tasks": ["copy"], "checkpoints": False}
STEPS = [name for name in layercut.__all__ if getattr(getattr(layercut, name), "__module__", "") == "layercut.api"]


@pytest.mark.parametrize("step", STEPS)
def test_help_names_every_argument(step):
    function = getattr(layercut, step)
    kinds = {one.kind for one in inspect.signature(function).parameters.values()}
    assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    for name in inspect.signature(function).parameters:
        assert re.search(rf"^ +{name}: \S", function.__doc__, re.MULTILINE), name
    if step == "heal":
        assert {"method", "rank", "learning_rate", "seed"} <= {*inspect.signature(function).parameters}


def test_what_a_step_returns_is_a_public_class():
    returned = {str(inspect.signature(getattr(layercut, step)).return_annotation) for step in STEPS}
    classes = {name for text in returned for name in re.findall(r"[A-Z]\w+", text)} - {"Path"}
    assert {"Pruned", "CutPlan", "TaskResult", "Swept", "Diagnosed", "StudyOutcome"} < classes
    assert classes <= {*layercut.__all__}, classes - {*layercut.__all__}
    loaded, paired = layercut.load_model.__annotations__["return"], layercut.compare_paired.__annotations__["return"]
    assert {loaded, paired} <= {*layercut.__all__}


@pytest.mark.parametrize(
    "page", ["examples/tutorial.ipynb", "docs/reference/python.md", "docs/start/tutorial_python.md"]
)
def test_python_is_taught_with_public_names_alone(page):
    text = (Path(__file__).parents[2] / page).read_text(encoding="utf-8")
    assert not re.findall(r"(?:from|import) layercut\.[\w.]+", text)
    assert {*re.findall(r"\blayercut\.(\w+)\(", text)} <= {*layercut.__all__}
    assert " 0.0 MB" not in text


def test_progress_is_shown_unless_it_is_silenced(tiny, tmp_path, capsys):
    cut = layercut.cut(tiny, "2", tmp_path / "cut")
    assert "comparing" in capsys.readouterr().err
    ranked = [TaskSettings(task="arithmetic", readouts=("rank",), limit=4)]
    calls: dict[str, Callable[..., object]] = {
        "select": lambda d, **how: layercut.select_layers(
            tiny, "block_influence", "2 layers", out=d, calibration=SHORT, **how
        ),
        "evaluate": lambda d, **how: layercut.evaluate_task("arithmetic", tiny, readout="rank", limit=4, **how),
        "sweep": lambda d, **how: layercut.sweep(tiny, ranked, layers="2", out=d, **how),
        "diagnose": lambda d, **how: layercut.diagnose(tiny, ["2"], only=["brackets"], limit=1, out=d, **how),
        "heal": lambda d, **how: layercut.heal(
            cut, tiny, "task:copy", out=d, limit=20, responses="original", method="seam", **how
        ),
        "study": lambda d, **how: layercut.run_study(STUDY | {"model": str(tiny)}, out=d, limit=2, **how),
    }
    for name, call in calls.items():
        call(tmp_path / f"{name}-quiet", progress=False)
        said = capsys.readouterr()
        assert said.out == said.err == "", name
        call(tmp_path / name)
        said = capsys.readouterr()
        assert said.out == "", name
        assert len(said.err) > 10, name


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m, d: layercut.select_layers(m, "block_influence", "40 layers", out=d),
            "cannot remove 40 layers: 6 of 6",
        ),
        (
            lambda m, d: layercut.select_layers(m, "block_influence", "3 layers", out=d, protect="9"),
            "protected layer 9",
        ),
        (lambda m, d: layercut.select_layers(m, "task_accuracy", "1 layer", out=d), "objective"),
        (
            lambda m, d: layercut.select_layers(m, "task_accuracy", "1 layer", out=d, objective=["coppy"]),
            "Did you mean copy",
        ),
        (lambda m, d: layercut.select_layers(m, "block", "1 layers", out=d), "unknown criterion"),
        (lambda m, d: layercut.select_layers(m, "random", "1 layers", out=d, race="fast"), "unknown race"),
        (lambda m, d: layercut.prune(m, use="math", one_size=True), "`one_size` needs a size"),
        (lambda m, d: layercut.cut(m, [4, 40], d), "layer 40 is not in"),
        (lambda m, d: layercut.cut(m, "reverse:40", d), "40"),
        (lambda m, d: layercut.evaluate_task("copy", m, "40"), "layer 40 is not in"),
        (lambda m, d: layercut.sweep(m, ["copy"], out=d, layers="40"), "layer 40 is not in"),
        (lambda m, d: layercut.sweep(m, ["copi"], out=d), "Did you mean copy"),
        (lambda m, d: layercut.diagnose(m, ["40"], out=d), "layer 40 is not in"),
        (lambda m, d: layercut.diagnose(m, ["1"], only=["bracket"], out=d), "Did you mean brackets"),
        (lambda m, d: layercut.run_study(STUDY | {"model": str(m), "plans": ["40"]}, out=d), "layer 40 is not in"),
    ],
)
def test_what_cannot_be_is_refused_before_the_model_is_read(call, message, tiny, tmp_path, monkeypatch):
    def read(*_: object, **__: object) -> None:
        raise AssertionError("the model was read")

    monkeypatch.setattr("layercut.engine.handle.ModelHandle.__init__", read)
    monkeypatch.setattr("layercut.models.sources.resolve_source", read)
    with pytest.raises(InputError) as caught:
        call(tiny, tmp_path / "out")
    assert message in str(caught.value) and not (tmp_path / "out").exists()


def test_too_many_layers_of_a_loaded_model_are_refused_before_it_writes_text(loaded, tmp_path, monkeypatch):
    model, tokenizer = loaded
    monkeypatch.setattr(model, "forward", lambda *_, **__: pytest.fail("the model was run"))
    with pytest.raises(InputError, match="cannot remove 40 layers"):
        layercut.select_layers(model, "block_influence", "40 layers", out=tmp_path / "out", tokenizer=tokenizer)


def test_choose_and_cut(tiny, tmp_path):
    said: list[str] = []
    plan = layercut.select_layers(
        tiny, "block_influence", "2 layers", out=tmp_path / "bi", protect="first:1,last:1", calibration=SHORT
    )
    assert len(plan.removed) == 2 and not {0, 5} & set(plan.removed)
    assert str(plan).startswith("rank  layer  importance") and f"{tmp_path}/bi/plan.json" in str(plan)
    assert str(pickle.loads(pickle.dumps(plan))) == plan.describe() and pickle.loads(pickle.dumps(plan)) == plan
    assert layercut.CutPlan.load(tmp_path / "bi" / "plan.json").removed == plan.removed
    assert set(plan.scores["importance"]) == set("1234")  # of the layers that may go
    cut = layercut.cut(tiny, plan, tmp_path / "cut", say=said.append)
    assert AutoModelForCausalLM.from_pretrained(cut).config.num_hidden_layers == 4
    assert layercut.CutPlan.load(cut / "plan.json").removed == plan.removed
    assert any("comparing" in line for line in said)
    with pytest.raises(InputError, match="not an empty folder"):
        layercut.cut(tiny, "reverse:1", cut)


def test_steps_take_settings_engines_and_folders(tiny, tmp_path):
    ranked = [TaskSettings(task="arithmetic", readouts=("rank",), limit=12)]
    with pytest.raises(InputError, match="not above guessing"):  # a random model knows no sums
        layercut.select_layers(tiny, "task_accuracy", "1 layer", out=tmp_path / "s", objective=ranked, protect="none")
    engine, plan = layercut.PlainEngine(layercut.load_model(str(tiny))), layercut.CutPlan(num_layers=6, removed=(1,))
    scored = layercut.evaluate_task(layercut.load_task("arithmetic"), engine, plan, readout="rank", limit=4)
    assert scored.metrics[0]["n"] == len(scored.records) == 4
    cut = layercut.cut(layercut.ModelSettings(model=str(tiny)), "reverse:2", tmp_path / "cut", verify=False)
    done = layercut.diagnose(tiny, [cut], only=["brackets"], limit=2, out=tmp_path / "broken")
    assert done.report.is_file() and set(done.data["diagnostics"]) == {"brackets"}


@pytest.mark.parametrize("method", ["seam", "lora"])
def test_heal_gives_the_folder_of_the_checkpoint(method, tiny, tmp_path):
    if method != "seam":
        pytest.importorskip("trl", reason="healing by training needs layercut[heal]")
    cut = layercut.cut(tiny, "2,4", tmp_path / "cut")
    asked = {"method": method, "rank": 2, "max_steps": 2, "save_every": 2, "limit": 40, "responses": "original"}
    healed = layercut.heal(cut, tiny, "task:arithmetic", out=tmp_path / "run", **asked)
    assert healed == tmp_path / "run" / "checkpoint"
    assert json.loads((healed / "plan.json").read_text())["healing"][0]["method"] == method
    assert AutoModelForCausalLM.from_pretrained(healed).config.num_hidden_layers == 4
    with pytest.raises(InputError, match="unknown method"):
        layercut.heal(cut, tiny, "task:arithmetic", out=tmp_path / "run", method="prayer")


@pytest.fixture
def loaded(tiny: Path) -> tuple[Any, Any]:
    """A model in memory and its tokenizer, as a user loads them."""
    return AutoModelForCausalLM.from_pretrained(tiny), AutoTokenizer.from_pretrained(tiny)


def test_two_lines_make_a_loaded_model_smaller(loaded):
    model, _ = loaded
    smaller = layercut.remove_layers(model, "1-2")
    assert smaller is model and model.config.num_hidden_layers == 4
    with layercut.bypass(model, [0]):
        assert model.config.num_hidden_layers == 3
    assert model.config.num_hidden_layers == 4
    with pytest.raises(InputError, match="layer 9 is not in"):
        layercut.remove_layers(model, [9])


def test_every_step_takes_a_loaded_model(loaded, tiny, tmp_path):
    model, tokenizer = loaded
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plan = layercut.select_layers(
        model, "block_influence", "34%", out=tmp_path / "bi", tokenizer=tokenizer, calibration=SHORT
    )
    named = layercut.select_layers(tiny, "block_influence", "2 layers", out=tmp_path / "named", calibration=SHORT)
    assert plan.removed == named.removed and plan.model_hash == named.model_hash
    cut = layercut.cut(model, [2, 4], tmp_path / "cut", tokenizer=tokenizer)
    assert layercut.CutPlan.load(cut / "plan.json").removed == (2, 4)
    found = layercut.evaluate_task("arithmetic", model, "2,4", tokenizer=tokenizer, readout="rank", limit=4)
    assert found.records == layercut.evaluate_task("arithmetic", cut, readout="rank", limit=4).records
    swept = layercut.sweep(model, ["arithmetic"], limit=4, layers="2", out=tmp_path / "sweep", tokenizer=tokenizer)
    assert {row.layer for row in swept.sweep.rows} == {2}
    done = layercut.diagnose(model, ["4"], only=["brackets"], limit=2, out=tmp_path / "broken", tokenizer=tokenizer)
    assert done.report.is_file()
    asked = {"limit": 20, "responses": "original", "method": "seam"}
    healed = layercut.heal(cut, model, "task:arithmetic", tokenizer=tokenizer, out=tmp_path / "healed", **asked)
    assert (healed / "config.json").is_file()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_loaded_model_is_known_by_its_weights(loaded, tiny, tmp_path, monkeypatch):
    from layercut.models.loading import loaded_hash, wrap_loaded

    monkeypatch.setenv("LAYERCUT_CACHE", str(tmp_path / "cache"))
    model, tokenizer = loaded
    assert wrap_loaded(model, tokenizer).source.path == tiny, "the folder that it came from holds the same weights"
    assert wrap_loaded(model).source.path == tiny and not [*(tmp_path / "cache").rglob("*.safetensors")]
    before = loaded_hash(model, tokenizer)
    with torch.no_grad():
        model.model.layers[3].mlp.down_proj.weight[5, 7] += 1
    assert loaded_hash(model, tokenizer) != before, "a single weight is another model"
    said: list[str] = []
    changed = wrap_loaded(model, tokenizer, say=said.append)
    assert changed.source.path.parent == tmp_path / "cache" / "loaded" and "writing a copy" in said[0]
    again = AutoModelForCausalLM.from_pretrained(changed.source.path)
    assert all(torch.equal(again.state_dict()[name], one) for name, one in model.state_dict().items())
    assert wrap_loaded(model, tokenizer, say=said.append).source == changed.source and len(said) == 1
    layercut.remove_layers(model, [0])
    assert wrap_loaded(model, tokenizer).num_layers == 5
    with pytest.raises(InputError, match=r"model.eval\(\)"):
        wrap_loaded(model.train(), tokenizer)
    model.eval().name_or_path = ""
    with pytest.raises(InputError, match="without its tokenizer"):
        wrap_loaded(model)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m, d: layercut.prune(m, use="math", keeps=0.9),
            "unknown argument of prune 'keeps'. Did you mean keep?",
        ),
        (lambda m, d: layercut.prune(m, use="mth"), "Did you mean math?"),
        (lambda m, d: layercut.prune(m), "neither was given"),
        (lambda m, d: layercut.prune(3, use="math"), "int is no model"),
        (lambda m, d: layercut.select_layers(m, "random", "1 layers", out=d, protekt="0"), "Did you mean protect?"),
        (
            lambda m, d: layercut.select_layers(m, "random", "1 layers", out=d, calibraton=None),
            "Did you mean calibration?",
        ),
        (lambda m, d: layercut.cut(m, "1", d, verfy=False), "Did you mean verify?"),
        (lambda m, d: layercut.heal(m, m, "task:copy", out=d, max_step=2), "Did you mean max_steps?"),
        (lambda m, d: layercut.sweep(m, ["copy"], out=d, layer="1"), "Did you mean layers?"),
        (lambda m, d: layercut.diagnose(m, ["1"], out=d, limt=1), "Did you mean limit?"),
        (lambda m, d: layercut.run_study({}, outt=d), "Did you mean out?"),
        (lambda m, d: layercut.compare(d, d, seeed=1), "Did you mean seed?"),
        (lambda m, d: layercut.compare(d, d, seeds=1), "Did you mean seed?"),
    ],
)
def test_an_argument_that_does_not_exist_is_refused_with_the_nearest(call, message, tiny, tmp_path):
    with pytest.raises(InputError) as caught:
        call(tiny, tmp_path / "out")
    assert message in str(caught.value)


def test_prune_of_a_loaded_model_is_that_of_its_name(tmp_path):
    folder = spare_model(tmp_path / "spare")
    file = choice_file(tmp_path / "mine.jsonl", folder)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    wanted: dict[str, Any] = {"tasks": [file], "keep": 0.6, "units": "layer", "items": 40, "heal": "none"}
    done = layercut.prune(model, tokenizer, out=tmp_path / "loaded", **wanted)
    named = layercut.prune(folder, out=tmp_path / "named", **wanted)
    assert done.plan.removed == named.plan.removed and len(done.plan.removed) == 2
    assert done.result.tested == named.result.tested and done.result.verdict == "passed"
    assert done.checkpoint is not None and named.checkpoint is not None
    weights = [one.checkpoint.joinpath("model.safetensors").read_bytes() for one in (done, named) if one.checkpoint]
    assert weights[0] == weights[1]
    assert done.model.config.num_hidden_layers == 4 == len(done.plan.kept)
    assert set(done.kept) == {"mine.jsonl"} and done.report.is_file()
    again = layercut.prune(model, tokenizer, out=tmp_path / "loaded", **wanted)
    assert again.result == done.result


@pytest.mark.parametrize("step", [name for name in STEPS if name not in ("evaluate_task", "cut", "heal", "push")])
def test_a_result_prints_what_the_terminal_shows(step, monkeypatch):
    returns = inspect.signature(getattr(layercut, step)).return_annotation
    kind = list if returns.startswith("list[") else getattr(layercut, returns.partition(" ")[0])
    given = kind.__new__(kind, *map(str, getattr(kind, "_fields", ())))
    table = make_bare_table()
    table.add_column("layer")
    table.add_row("12")
    verb = SimpleNamespace(
        fit=lambda: None,
        tracked=nullcontext,
        run=lambda io: "done",
        returned=lambda done: given,
        show=lambda done, io: Shown(None, [table], [f"[{done}]"], notes=["short"]),
    )
    name = next(name for name in VERBS if step in (name, verb_class(name).FUNCTION))
    monkeypatch.setattr(verb_class(name), "of", lambda **given: verb)
    result = getattr(layercut, step)()
    assert str(result) == "layer\n─────\n12   \n[done]\nnote: short"
    assert re.search(r"<pre[^>]*><span [^>]*>layer</span>\n─────\n12   \n\[done\]", result._repr_html_())
    assert isinstance(result, kind) and repr(result) == repr(copy.copy(result)) and len(repr(result)) < 500
    if kind in (list, layercut.Evaluated):
        assert result == given == pickle.loads(pickle.dumps(result))


def test_studies_and_comparisons_from_python(tiny, tmp_path):
    study = STUDY | {"model": str(tiny), "device": "cpu", "out": str(tmp_path / "study")}
    outcome = layercut.run_study(study | {"tasks": [{"task": "arithmetic", "readouts": ["rank"], "limit": 8}]})
    assert not outcome.failed and {row.task for row in outcome.rows} == {"arithmetic"}
    rows = layercut.compare(tmp_path / "study" / "uncut", tmp_path / "study" / "last")
    assert {row.readout for row in rows} == {"rank"}


def test_the_stub_has_the_arguments_that_the_functions_take():
    stub = ast.parse((Path(layercut.__file__).parent / "__init__.pyi").read_text("utf-8"))
    functions = {node.name: node for node in stub.body if isinstance(node, ast.FunctionDef)}
    assert {"prune", "evaluate", "select_layers", "compare"} <= functions.keys() <= {*layercut.__all__}
    for name, node in functions.items():
        signature = inspect.signature(getattr(layercut, name))
        kinds = {parameter.name: parameter.kind for parameter in signature.parameters.values()}
        positional = [one.arg for one in node.args.args]
        assert [*positional, *(one.arg for one in node.args.kwonlyargs)] == list(kinds), name
        assert all(kinds[one] is inspect.Parameter.POSITIONAL_OR_KEYWORD for one in positional), name
        given = [None] * (len(positional) - len(node.args.defaults)) + node.args.defaults + node.args.kw_defaults
        for argument, default in zip(kinds, given, strict=True):
            here = signature.parameters[argument].default
            assert (default is None) == (here is inspect.Parameter.empty), (name, argument)
            assert default is None or ast.literal_eval(default) == here, (name, argument)
        assert node.returns is not None and ast.unparse(node.returns) == signature.return_annotation, name
    imported = {one.asname for node in stub.body if isinstance(node, ast.ImportFrom) for one in node.names}
    assert {*layercut.__all__} == (imported & {*layercut.__all__}) | functions.keys() | {"__version__"}


def test_descriptions_name_what_is_done():
    protect = SelectVerb.model_fields["protect"].description or ""
    assert protect.endswith("layer 0 for task_accuracy.")
    assert (layercut.prune.__doc__ or "").startswith("Make MODEL smaller")
