"""Settings of training, the memory of a step by formula, and groups of processes."""

import pytest

from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.healing.outline import ProcessGroup, training_parts
from layercut.healing.settings import METHODS, OBJECTIVES, TrainSettings, load_by_name
from layercut.settings import ModelSettings


@pytest.mark.parametrize(("method", "rate"), [("lora", 2e-4), ("full", 1e-5), ("last-k", 1e-5)])
def test_the_learning_rate_follows_the_method(method, rate):
    assert TrainSettings(method=method).learning_rate == rate
    assert TrainSettings(method=method, learning_rate=3e-4).learning_rate == 3e-4


def test_every_row_names_code_and_settings_that_exist():
    pytest.importorskip("trl", reason="healing by training needs layercut[heal]")
    assert all((row.made_by is None) != (row.repairs is None) for row in METHODS.values()), "trains, or repairs"
    assert all(callable(load_by_name(str(row.made_by or row.repairs))) for row in METHODS.values())
    assert all(callable(load_by_name(row.trainer).options) for row in OBJECTIVES.values())
    rows = (*METHODS.values(), *OBJECTIVES.values())
    assert {name for row in rows for name in row.takes} <= set(TrainSettings.model_fields)


def test_settings_of_other_rows_had_no_effect():
    lora, last = TrainSettings().in_effect(), TrainSettings(method="last-k", objective="on-policy").in_effect()
    assert set(lora) - set(last) == {"rank", "alpha", "dropout"}
    assert set(last) - set(lora) == {"last_k", "rollout_max"}
    assert (lora["beta1"], lora["beta2"]) == (0.9, 0.99)
    assert TrainSettings(objective="grpo").in_effect()["group"] == 8, "named also where it is the default"
    assert "group" not in TrainSettings(group=4).in_effect()
    assert "seam" in TrainSettings(method="seam").in_effect() and "seam" not in lora | last


SMOLLM2 = ModelSettings(model="bundled:smollm2-135m", dtype="float32", device="cpu")


@pytest.mark.parametrize(
    ("more", "measured"),
    [
        ({"method": "full"}, 3.05),
        ({"method": "full", "gradient_checkpointing": "on"}, 2.54),
        ({"method": "full", "optimizer": "adafactor"}, 1.98),
        ({"method": "last-k"}, 1.69),
        ({"method": "lora"}, 2.14),
        ({"method": "lora", "objective": "forward-kl"}, 2.88),
    ],
)
def test_the_formula_is_near_what_was_measured(more, measured):
    """Peaks in GB of SmolLM2-135M, 2 examples of 256 tokens, half of them in the loss (docs/reference/healing.md)."""
    handle, train = ModelHandle(SMOLLM2), TrainSettings(batch_size=8, micro_batch=2, **more)
    parts = training_parts(handle, handle if train.goal.divergence else None, train, num_tokens=256, num_in_loss=128)
    assert sum(parts.values()) / 1e9 == pytest.approx(measured, rel=0.15)


def test_the_base_of_qlora_takes_four_bits_a_weight():
    handle, longest = ModelHandle(SMOLLM2), {"num_tokens": 256, "num_in_loss": 128}
    lora, qlora = (
        training_parts(handle, None, TrainSettings(method=method), **longest)["weights"] for method in ("lora", "qlora")
    )
    assert 0.3 * lora < qlora < 0.35 * lora, "of 134.5 million weights, 28.3 million are embeddings in float32"


def test_without_a_launcher_one_is_alone():
    alone = ProcessGroup.of_this_process({})
    assert alone == ProcessGroup(0, 1)
    assert alone.share({"told": 1}) == {"told": 1}
    alone.leave()
    assert ProcessGroup.of_this_process({"RANK": "3", "WORLD_SIZE": "4"}) == (3, 4)


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "expected"),
    [(8, 4, 1, (4, 2)), (8, 4, 2, (4, 1)), (8, 2, 2, (2, 2)), (8, 4, 8, (1, 1)), (64, 4, 8, (4, 2)), (2, 4, 1, (2, 1))],
)
def test_a_step_has_the_same_examples_whoever_trains(batch, micro, processes, expected):
    assert TrainSettings(batch_size=batch, micro_batch=micro).batches(processes) == expected


def test_a_batch_that_cannot_be_spread_is_refused():
    with pytest.raises(InputError, match="micro_batch 2 .* 3 processes"):
        TrainSettings(batch_size=8, micro_batch=4).batches(3)
    with pytest.raises(InputError, match="micro_batch 1 .* 4 processes"):
        TrainSettings(batch_size=2).batches(4)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"method": "lorra"}, "Did you mean lora"),
        ({"objective": "kl"}, "unknown objective"),
        ({"method": "seam", "objective": "reverse-kl"}, "seam trains nothing"),
        ({"held_out": 1.0}, "held_out 1.0 is too large; write 0 or more and less than 1"),
        ({"rank": 0}, "rank 0 is too small"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, says):
    with pytest.raises(InputError, match=says):
        TrainSettings(**wrong)
