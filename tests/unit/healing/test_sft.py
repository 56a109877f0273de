from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM

from layercut.engine.handle import ModelHandle
from layercut.errors import InputError, MissingExtra
from layercut.healing import examples
from layercut.healing.examples import Data
from layercut.healing.outline import training_disk
from layercut.healing.settings import OBJECTIVES, TrainSettings
from layercut.settings import ModelSettings
from layercut.surgery.checkpoint import cut_checkpoint
from layercut.surgery.plan import CutPlan
from tests.support.healing import tiny_data, tiny_records
from tests.support.loaded import tiny_loaded
from tests.support.tiny import CONFIGS, NUM_LAYERS, save_tiny, tiny_model

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")
pytest.importorskip("peft", reason="healing by training needs layercut[heal]")

from layercut.healing.heal import objective_of
from layercut.healing.sft import Trained, last_checkpoint
from layercut.healing.trainable import load_for_training, load_teacher, make_trainable, nf4_quantization
from tests.support.training import Killed, curve_of, small_settings, train_tiny

DATA = tiny_data(24)
FIVE_STEPS = small_settings(max_steps=5, save_every=2)


def heal(folder: Path, wanted: TrainSettings, *, kill_at: int | None = None, data: Data = DATA) -> Trained:
    return train_tiny(tiny_loaded("llama").model, data, wanted, folder, kill_at)


def through_and_resumed(heal, folder, wanted, kill_at):
    """A training that ran through, and one that was killed at a step and went on from its checkpoint."""
    whole = heal(folder / "whole", wanted)
    with pytest.raises(Killed):
        heal(folder / "killed", wanted, kill_at=kill_at)
    checkpoint = last_checkpoint(folder / "killed")
    assert checkpoint is not None and checkpoint.name == f"checkpoint-{kill_at - 1}"
    return whole, heal(folder / "killed", wanted)


def assert_same_training(one: Trained, other: Trained) -> None:
    """The same losses, and the same weights to the last bit."""
    assert curve_of(one) == curve_of(other)
    weights = [next(run.final.glob("*model.safetensors")).read_bytes() for run in (one, other)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("lora", {}),
        ("full", {}),
        ("full", {"optimizer": "adafactor"}),
        ("last-k", {"optimizer": "adafactor", "gradient_checkpointing": "on"}),
    ],
)
def test_stopped_and_resumed_has_the_losses_of_a_run_through(method, more, tmp_path):
    wanted = small_settings(method=method, **more)
    whole, resumed = through_and_resumed(heal, tmp_path, wanted, kill_at=3)
    assert_same_training(resumed, whole)
    losses = [line["loss"] for line in whole.curve if "loss" in line]
    assert len(losses) == len(set(losses)) == 4
    assert heal(tmp_path / "killed", wanted) == resumed  # finished: nothing is trained again


def heal_with_teacher(folder: Path, wanted: TrainSettings, kill_at: int | None = None) -> Trained:
    """Heal the checkpoint ``cut`` beside a folder by what ``uncut`` says."""
    given = {"dtype": "float32", "device": "cpu"}
    cut, teacher = (ModelHandle(ModelSettings(model=str(folder.parent / kind), **given)) for kind in ("cut", "uncut"))
    loaded, uncut = load_for_training(cut, wanted), load_teacher(teacher, cut, TrainSettings())
    options = objective_of(loaded, uncut, wanted, DATA, tiny_records(24))
    return train_tiny(loaded.model, DATA, wanted, folder, kill_at, **options)


@pytest.mark.parametrize(
    "more",
    [
        *({"objective": name} for name, row in OBJECTIVES.items() if row.divergence),
        {"gradient_checkpointing": "on", "dropout": 0.0},
        {"method": "full", "objective": "on-policy", "precision": "bfloat16"},
    ],
    ids=str,
)
def test_with_a_teacher_stopped_and_resumed_is_run_through(more, tmp_path):
    uncut = ModelHandle(ModelSettings(model=str(save_tiny("llama", tmp_path / "uncut"))))
    plan = CutPlan(num_layers=NUM_LAYERS, removed=(1, 4), model_hash=uncut.metadata.model_hash)
    cut_checkpoint(tmp_path / "uncut", plan, tmp_path / "cut")
    taught = {"max_steps": 3, "micro_batch": 4, "learning_rate": 1e-2, "objective": "forward-kl", "rollout_max": 8}
    wanted = small_settings(**(taught | more))
    whole, resumed = through_and_resumed(heal_with_teacher, tmp_path, wanted, kill_at=3)
    assert_same_training(resumed, whole)
    losses = [line["loss"] for line in whole.curve if "loss" in line]
    assert len(set(losses)) == 3 and min(losses) > 0


def heal_on_gpu(folder: Path, wanted: TrainSettings, kill_at: int | None = None) -> Trained:
    torch.manual_seed(0)
    size = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
    config = AutoConfig.for_model("llama", **(CONFIGS["llama"] | size))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).cuda()
    model.requires_grad_(False)
    return train_tiny(model, DATA, wanted, folder, kill_at)


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["adamw_torch", "adafactor"])
def test_full_fine_tuning_on_a_gpu_learns_and_resumes(optimizer, tmp_path):
    wanted = small_settings(method="full", max_steps=6, optimizer=optimizer)
    whole, resumed = through_and_resumed(heal_on_gpu, tmp_path, wanted, kill_at=3)
    assert whole.held_out["last"] < whole.held_out["before"]
    kept = AutoModelForCausalLM.from_pretrained(whole.final, dtype="auto")
    assert kept.dtype == torch.float32
    losses = [[line["loss"] for line in run.curve if "loss" in line] for run in (whole, resumed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.gpu
def test_logits_of_chunks_on_a_gpu_have_the_losses_of_the_whole(tmp_path, monkeypatch):
    wanted = small_settings(method="full", max_steps=6)
    whole = heal_on_gpu(tmp_path / "whole", wanted)
    monkeypatch.setattr(examples, "CHUNK_SIZE", 260 * 4)
    chunked = heal_on_gpu(tmp_path / "chunked", wanted)
    first = [run.curve[1]["loss"] for run in (whole, chunked)]
    assert first[0] == pytest.approx(first[1], rel=1e-2)


def test_the_held_out_loss_is_known_before_the_first_step_and_training_is_the_same(tmp_path):
    """Against the loss of the untrained model, worked out by hand."""
    wanted = small_settings(micro_batch=4)
    with_look = heal(tmp_path / "with", wanted)
    model, total, count = tiny_loaded("llama").model, 0.0, 0
    for one in DATA.held_out:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([one.input_ids])).logits[0, :-1]
        targets = torch.tensor(one.labels[1:])
        total += cross_entropy(logits, targets, reduction="sum").item()
        count += int((targets != -100).sum())
    assert with_look.curve[0]["step"] == 0
    # Batches of 4 count alike, not tokens.
    assert with_look.held_out["before"] == pytest.approx(total / count, rel=0.02)
    # The random numbers of training (dropout) are those of a run that did not look.
    unseen = small_settings(micro_batch=4, held_out=0.0)
    without = curve_of(heal(tmp_path / "without", unseen, data=Data(DATA.train, [])))
    first_two = [line["loss"] for line in curve_of(with_look) if "loss" in line][:2]  # the look at step 2 draws
    assert first_two == [line["loss"] for line in without[:2]]


def test_a_training_that_was_stopped_in_its_second_epoch_goes_on_there(tmp_path):
    wanted = small_settings(max_steps=9, epochs=3, save_every=7, schedule="cosine")  # five steps an epoch
    whole, resumed = through_and_resumed(heal, tmp_path, wanted, kill_at=8)
    assert_same_training(resumed, whole)
    rates = [line["learning_rate"] for line in whole.curve if "learning_rate" in line]
    assert rates == sorted(rates, reverse=True) and rates[-1] < rates[0] / 2


def test_only_the_weights_that_should_learn_do():
    def names(method: str) -> set[str]:
        model = make_trainable(tiny_model("mistral"), small_settings(method=method, last_k=2))
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    assert all("lora_" in name for name in names("lora")) and names("lora")
    assert not any("lm_head" in name for name in names("lora"))
    assert names("full") == {name for name, _ in tiny_model("mistral").named_parameters()}
    last = {name.split(".")[2] if "layers" in name else name for name in names("last-k")}
    assert last == {"4", "5", "lm_head.weight"}


def test_a_checkpoint_that_a_kill_tore_is_passed_over(tmp_path):
    for step, text in ((2, "{}"), (10, '{"step'), (9, "{}")):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
        for name in ("optimizer.pt", "scheduler.pt"):
            torch.save({}, tmp_path / f"checkpoint-{step}" / name)
    (tmp_path / "checkpoint-12").mkdir()
    found = last_checkpoint(tmp_path)
    assert found is not None and found.name == "checkpoint-9"
    assert last_checkpoint(tmp_path / "nowhere") is None


def _cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _flip_bits(file: Path) -> None:
    data = bytearray(file.read_bytes())
    for place in range(len(data) // 3, 2 * len(data) // 3):
        data[place] ^= 1
    file.write_bytes(data)


@pytest.fixture(scope="module")
def whole_and_killed(tmp_path_factory):
    """A training that ran through, and the folder of the same one, killed at step 5."""
    folder = tmp_path_factory.mktemp("trainings")
    whole = heal(folder / "whole", FIVE_STEPS)
    with pytest.raises(Killed):
        heal(folder / "killed", FIVE_STEPS, kill_at=5)
    return whole, folder / "killed"


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("optimizer.pt", _cut_short),
        ("optimizer.pt", _flip_bits),
        ("optimizer.pt", Path.unlink),
        ("scheduler.pt", lambda file: file.write_bytes(b"not a file of torch")),
        ("rng_state.pth", _cut_short),
        ("adapter_model.safetensors", _cut_short),
    ],
)
def test_a_damaged_checkpoint_is_named_and_training_goes_on_from_the_one_before(
    name, damage, whole_and_killed, tmp_path, caplog
):
    whole, killed = whole_and_killed
    shutil.copytree(killed, tmp_path / "killed")
    damage(tmp_path / "killed" / "checkpoint-4" / name)
    with caplog.at_level("WARNING", logger="layercut"):
        resumed = heal(tmp_path / "killed", FIVE_STEPS)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1 and f"checkpoint-4/{name} is damaged" in said[0] and "from step 2" in said[0]
    assert curve_of(resumed) == curve_of(whole)


def test_training_stops_when_held_out_examples_no_longer_gain(tmp_path):
    trained = heal(tmp_path, small_settings(learning_rate=0.5, method="full", max_steps=30, save_every=1, patience=2))
    assert trained.stopped_early and trained.steps < 30
    looks = {line["step"]: line["held_out_loss"] for line in trained.curve if "held_out_loss" in line}
    best = min(range(1, trained.steps + 1), key=lambda step: looks[step])
    assert trained.held_out == {"before": looks[0], "last": looks[trained.steps], "best": looks[best]}
    assert trained.steps == best + 2
    # The weights are those of the best look, not the last.
    kept = AutoModelForCausalLM.from_pretrained(trained.final)
    seen = AutoModelForCausalLM.from_pretrained(tmp_path / f"checkpoint-{best}")
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), seen.parameters(), strict=True))


@pytest.mark.parametrize("method", ["lora", "last-k", "full"])
def test_a_training_takes_the_disk_that_is_foretold(method, tmp_path):
    wanted = small_settings(method=method, rank=16, last_k=2)
    with pytest.raises(Killed):
        heal(tmp_path / "run", wanted.replace(max_steps=6), kill_at=5)
    files = [*tmp_path.glob("run/checkpoint-*/*.safetensors"), *tmp_path.glob("run/checkpoint-*/optimizer.pt")]
    assert len(files) == 4, "two of the three checkpoints that are foretold"
    model = ModelHandle(ModelSettings(model=str(save_tiny("llama", tmp_path / "tiny"))))
    foretold = training_disk(model.counts, wanted)
    written = sum(file.stat().st_size for file in files)
    assert written == pytest.approx(foretold * 2 / 3, rel=0.25), "file headers differ"


def test_half_precision_too_many_layers_and_qlora_where_it_cannot_run_are_refused(monkeypatch):
    with pytest.raises(InputError, match="float32, not bfloat16"):
        make_trainable(tiny_model("llama").bfloat16(), small_settings(method="full"))
    with pytest.raises(InputError, match="pruned model has 6"):
        make_trainable(tiny_model("llama"), small_settings(method="last-k", last_k=7))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(InputError, match="pip install bitsandbytes"):
        nf4_quantization()
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="`method` lora runs everywhere"):
        nf4_quantization()


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    monkeypatch.delitem(sys.modules, "layercut.healing.sft")
    with pytest.raises(MissingExtra, match=r"pip install .*\[heal\]'"):
        import layercut.healing.sft  # noqa: F401
