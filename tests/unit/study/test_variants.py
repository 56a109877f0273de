from typing import Any

import pytest

from layercut.errors import InputError
from layercut.study.file import read_study_file, study_from_dict
from layercut.study.variants import list_variants, order_cells
from layercut.tasks.cells import make_task_cells

BASE: dict[str, Any] = {"model": "m", "out": "runs/x", "tasks": ["copy"], "depths": [1, 2]}
TASKS = {"criterion": "task_accuracy", "objective": ["copy"]}
SFT = {"name": "sft", "prompts": "p.txt"}


def names(num_layers: int = 8, **keys: Any) -> list[str]:
    return [arm.name for arm in list_variants(study_from_dict(BASE | keys), num_layers)]


def test_every_criterion_has_every_depth_and_every_cut_every_healing():
    found = names(criteria=["reverse", "random"], healing=["none", SFT, {**SFT, "name": "few", "plans": ["random"]}])
    assert found == [
        *("uncut", "reverse-1", "reverse-1+sft", "reverse-2", "reverse-2+sft"),
        *("random-1", "random-1+sft", "random-1+few", "random-2", "random-2+sft", "random-2+few"),
    ]


def test_the_uncut_model_is_trained_where_an_arm_names_it():
    healing = [SFT, {**SFT, "name": "steps", "plans": ["uncut"]}]
    seeded = ["uncut", "uncut+steps", "uncut+steps-seed5", "reverse-1", "reverse-1+sft", "reverse-1+sft-seed5"]
    assert names(criteria=["reverse"], depths=[1], healing=healing, seeds=[0, 5]) == seeded
    assert names(depths=[], healing=healing[1:]) == ["uncut", "uncut+steps"]


def test_depths_may_be_shares_and_each_counts_once():
    assert names(criteria=["reverse"], depths=["25%", 2, "12.5%", "30%"]) == ["uncut", "reverse-2", "reverse-1"]
    assert names(30, criteria=["reverse"], depths=["25%"])[1] == "reverse-8", "a half is rounded up"
    with pytest.raises(InputError, match="depth 8 leaves"):
        names(criteria=["reverse"], depths=[8])


def test_under_a_further_seed_only_what_draws_is_drawn_anew():
    keys: dict[str, Any] = {"criteria": ["reverse", "random"], "depths": [1], "plans": {"any": "random:1"}}
    assert names(seeds=[0, 5], **keys) == ["uncut", "any", "any-seed5", "reverse-1", "random-1", "random-1-seed5"]
    healing = [SFT, {**SFT, "name": "fixed", "seed": 42}]
    assert names(seeds=[0, 5], criteria=["reverse", "random"], depths=[1], healing=healing) == [
        *("uncut", "reverse-1", "reverse-1+sft", "reverse-1+fixed", "reverse-1+sft-seed5"),
        *("random-1", "random-1+sft", "random-1+fixed"),
        *("random-1-seed5", "random-1-seed5+sft", "random-1-seed5+fixed"),
    ]
    sampled = names(seeds=[0, 5], criteria=["reverse"], depths=[1], decoding={"temperature": 0.9})
    assert sampled == ["uncut", "reverse-1", "reverse-1-seed5"]


def test_cheap_and_informative_first():
    study = study_from_dict(
        BASE
        | {"criteria": [TASKS, "block_influence", "random"], "seeds": [0, 1], "healing": [{**SFT, "plans": ["random"]}]}
        | {"tasks": [{"task": "copy", "readouts": ["short", "rank"]}]}
    )
    arms = list_variants(study, 8)
    order = [f"{arm.name} {cell.readout}" for arm, cell in order_cells(arms, make_task_cells(study.tasks, 0))]
    assert order == [
        *("uncut rank", "uncut short"),
        *("random-1 rank", "random-2 rank", "random-1 short", "random-2 short"),
        *("block_influence-1 rank", "block_influence-2 rank", "block_influence-1 short", "block_influence-2 short"),
        *("task_accuracy-1 rank", "task_accuracy-2 rank", "task_accuracy-1 short", "task_accuracy-2 short"),
        *("random-1+sft rank", "random-1+sft short", "random-2+sft rank", "random-2+sft short"),
        *("random-1-seed1 rank", "random-2-seed1 rank", "random-1-seed1 short", "random-2-seed1 short"),
        *("block_influence-1-seed1 rank", "block_influence-2-seed1 rank"),
        *("block_influence-1-seed1 short", "block_influence-2-seed1 short"),
        *("random-1-seed1+sft rank", "random-1-seed1+sft short", "random-2-seed1+sft rank", "random-2-seed1+sft short"),
    ]


def test_one_search_serves_all_depths_where_they_are_nested():
    criteria = ["reverse", "block_influence", "angular_distance", TASKS, "my.module:mine"]
    found = {one.name: (one.row.is_nested, one.cost) for one in study_from_dict(BASE | {"criteria": criteria}).criteria}
    assert found == {
        "reverse": (True, 0),
        "block_influence": (True, 1),
        "angular_distance": (False, 1),
        "task_accuracy": (True, 2),
        "my.module-mine": (False, 1),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"criteria": ["reverse"], "depths": []}, "criteria without depths"),
        ({"plans": {"a": "3"}}, "depths without criteria"),
        ({"criteria": ["reverze"]}, r"unknown criterion 'reverze'. Did you mean reverse\?"),
        ({"criteria": ["task_accuracy"]}, "give it some, such as objective"),
        ({"criteria": [{"criterion": "reverse", "objective": ["copy"]}]}, "takes layers by their place"),
        ({"criteria": [{"criterion": "random", "protect": "first:1"}]}, "takes layers by their place"),
        ({"criteria": [{"criterion": "reverse", "calibratoin": "x"}]}, r"Did you mean calibration\?"),
        ({"criteria": ["reverse", "reverse"]}, "criterion reverse is listed twice"),
        ({"criteria": ["reverse"], "depths": [0]}, "depth '0' is no depth"),
        ({"criteria": ["reverse"], "depths": ["25"], "seeds": []}, "seeds is an empty list"),
        ({"criteria": ["reverse"], "depths": ["120%"]}, "is no depth; write a number of layers"),
        ({"criteria": ["reverse"], "depths": ["a quarter"]}, "is no depth"),
        ({"criteria": ["reverse"], "seed": 1, "seeds": [1]}, "seed and seeds"),
        ({"criteria": ["reverse"], "seeds": [1, 1]}, "the seed 1 is listed twice"),
        ({"criteria": ["reverse"], "healing": ["sft"]}, "'sft' is no arm"),
        ({"criteria": ["reverse"], "healing": [{"name": "none", "prompts": "p"}]}, "call it otherwise"),
        ({"criteria": ["reverse"], "healing": [{"name": "a"}]}, "arm a has no prompts"),
        ({"criteria": ["reverse"], "healing": [{**SFT, "max_step": 3}]}, r"Did you mean max_steps\?"),
        ({"criteria": ["reverse"], "healing": [{**SFT, "method": "lorra"}]}, "healing arm sft: unknown method 'lorra'"),
        ({"criteria": ["reverse"], "healing": [{**SFT, "plans": ["revers"]}]}, "is for revers, which is no plan"),
        ({"criteria": ["reverse"], "healing": [SFT, SFT]}, "healing arm sft is listed twice"),
        ({"criteria": ["reverse"], "plans": {"searches": "3"}}, "a study uses for itself"),
        ({"criteria": ["reverse"], "plans": {"reverse-1": "3"}}, "two arms of the study would be called reverse-1"),
        ({"criteria": ["reverse"], "sweep": {}}, "unknown key"),
        (
            {"criteria": ["reverse"], "healing": [{**SFT, "batch_size": 3, "micro_batch": 2}]},
            "no multiple of micro_batch",
        ),
        ({"criteria": ["reverse"], "tasks": ["suite:bultin"]}, r"Did you mean builtin\?"),
    ],
)
def test_what_makes_no_study_is_refused_in_one_clear_line(change, message):
    with pytest.raises(InputError, match=message) as caught:
        names(**change)
    assert "\n" not in str(caught.value)


def test_a_study_may_name_a_suite_and_a_folder_of_data(tmp_path):
    (tmp_path / "data" / "arc_easy").mkdir(parents=True)
    file = tmp_path / "study.yaml"
    file.write_text(
        f"model: a/one\ndtype: float32\nout: runs/x\nplans: ['3']\n"
        f"data_dir: {tmp_path}/data\ntasks: [{{task: 'suite:quick', limit: 20}}, {{task: copy, limit: 5}}]\n"
    )
    study = study_from_dict(read_study_file(file))
    assert (study.model.model, study.model.dtype) == ("a/one", "float32")
    found = {task.task: (task.limit, task.data) for task in study.tasks}
    assert found["copy"] == (5, None) and found["arc_easy"] == (20, str(tmp_path / "data" / "arc_easy"))
    assert list(found) == ["arithmetic", "brackets", "arc_easy", "copy"]


def test_a_folder_of_data_serves_searches_and_prompts_too(tmp_path):
    (tmp_path / "gsm8k").mkdir()
    local, own = str(tmp_path / "gsm8k"), {"task": "gsm8k", "data": "own"}
    criteria = [{"criterion": "task_accuracy", "objective": ["gsm8k", "copy", own]}, "reverse"]
    healing = [{"name": "sft", "prompts": ["task:gsm8k", "task:copy", "gsm8k"]}]
    study = study_from_dict({**BASE, "data_dir": str(tmp_path), "criteria": criteria, "healing": healing})
    assert [[one.data for one in by.objective] for by in study.criteria] == [[local, None, "own"], []]
    assert [spec.data for spec in study.healing[0].prompts] == [local, None, None]
    assert study_from_dict({**BASE, "criteria": ["reverse"]}).criteria == study.criteria[1:], "else nothing changes"
