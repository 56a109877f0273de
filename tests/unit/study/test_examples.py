"""Every study in examples/ can be read, and those of offline tasks are planned on a tiny model."""

from pathlib import Path

import pytest

from layercut.settings import Depth
from layercut.study.file import read_study_file, study_from_dict
from layercut.study.job import outline_study
from layercut.study.variants import list_variants
from layercut.verbs.run import RunVerb
from layercut.verbs.select import SelectVerb
from tests.support.tiny import save_tiny

FOLDER = Path(__file__).parents[3] / "examples"
REQUESTS = {"qwen-paper_search"}
"""Examples that are the request of another verb."""
EXAMPLES = sorted([*FOLDER.glob("*.yaml"), *FOLDER.glob("qwen/*.yaml")])


def name_of(file: Path) -> str:
    """Of the study's run folder, such as qwen-depth."""
    return "-".join(file.relative_to(FOLDER).with_suffix("").parts)


def test_they_are_all_here():
    names = {"compare-criteria", "healing-study", "one-model", "paper", "paper-suite", "quickstart"}
    names |= {"reasoner", "reasoner-study", "smollm2-study"}
    names |= {"qwen-depth", "qwen-healing", "qwen-table", *REQUESTS}
    assert {name_of(file) for file in EXAMPLES} == names


def test_the_papers_search_is_a_request_of_select():
    (file,) = (file for file in EXAMPLES if name_of(file) in REQUESTS)
    request = RunVerb.of(study=file).other
    assert isinstance(request, SelectVerb)
    assert (request.criterion, request.limit, request.out) == ("task_accuracy", 24, Path("runs/paper-search"))
    assert set(request.settings) <= {"shortlist", "traces"}


@pytest.mark.parametrize("file", [file for file in EXAMPLES if name_of(file) not in REQUESTS], ids=name_of)
def test_an_example_is_a_study(file):
    study = study_from_dict(read_study_file(file))
    assert len(list_variants(study, 30)) > 1
    assert study.out == Path("runs", name_of(file))


def test_the_papers_study_is_the_papers():
    study = study_from_dict(read_study_file(next(file for file in EXAMPLES if file.stem == "paper")))
    assert [depth.layers(layers) for depth in study.depths for layers in (28, 32)] == [7, 8]
    assert len(study.tasks) == 12 and sum(task.task.endswith(":5") for task in study.tasks) == 7
    for arm in study.healing:
        train = arm.train
        assert (train.rank, train.alpha, train.learning_rate, train.batch_size) == (64, 16, 2e-4, 8)
        assert (train.method, train.patience, train.max_length, train.epochs, arm.seed) == ("qlora", 0, 8000, 1.0, 42)
        assert all(spec.shuffle_seed == 42 for spec in arm.prompts)
        assert arm.preset == "paper"
    assert (study.decoding.temperature, study.decoding.top_k) == (0.9, 50)


@pytest.mark.parametrize("name", ["quickstart", "smollm2-study"])
def test_an_example_of_the_bundled_model_can_be_planned(name, tmp_path):
    study = study_from_dict(read_study_file(next(file for file in EXAMPLES if file.stem == name)))
    model = study.model.replace(model=str(save_tiny("llama", tmp_path / "tiny")))
    depths = tuple(Depth(text=text) for text in ("1", "2")) if study.depths else ()
    study = study.replace(model=model, out=tmp_path / "runs" / name, depths=depths)
    seen = outline_study(study, limit=4)
    cut = 2 if name == "quickstart" else 8
    healed = 1 if name == "quickstart" else 16
    arms = [step for step in seen.steps if step.name.endswith("cells done")]
    assert len(arms) == 1 + cut + healed
    assert all(arm.items > 0 and ", 0 of " in arm.name for arm in arms)
    assert sum(step.unit == "training" for step in seen.steps) == healed
    assert seen.disk_bytes > 0 and not (tmp_path / "runs").exists()
