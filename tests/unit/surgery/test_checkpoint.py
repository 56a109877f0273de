"""The cut folder: what comes along, what is refused, and that it is there whole or not at all."""

import json
import multiprocessing
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
import torch
from safetensors.torch import load_file

from layercut.errors import CheckpointError, InputError
from layercut.models.sources import resolve_source
from layercut.runs.lock import find_leftovers
from layercut.surgery import checkpoint
from layercut.surgery.checkpoint import cut_checkpoint, plan_cut, steps_of_earlier_cuts
from layercut.surgery.cut import cut_model
from layercut.surgery.plan import CutPlan
from tests.support.small_disk import small_disk
from tests.support.surgery import plan_of
from tests.support.tiny import NUM_LAYERS, save_tiny
from tests.unit.models.damage import edit_json, edit_tensors

PLAN = plan_of((1, 4))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_tiny("llama", tmp_path_factory.mktemp("uncut") / "llama")


@pytest.fixture
def source(llama, tmp_path):
    """A checkpoint of one's own, to be spoiled."""
    return Path(shutil.copytree(llama, tmp_path / "uncut"))


COPIED = [
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model", "tekken.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json", "LICENSE", "LICENSE.txt",
    "NOTICE", "USE_POLICY.md", "configuration_custom.py", "README.md", "preprocessor_config.json",
    "additional_chat_templates/tool_use.jinja",
]  # fmt: skip
LEFT = [
    "pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin",
    "consolidated.safetensors", "consolidated.00.pth", "tf_model.h5", "flax_model.msgpack", "rust_model.ot",
    "model.onnx", "model.Q4_K_M.gguf", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "trainer_state.json",
    "training_args.bin", "adapter_config.json", ".gitattributes", "layercut_source.json",
    "original/params.json", "checkpoint-100/config.json",
]  # fmt: skip


def test_what_comes_along_and_what_does_not(source, tmp_path):
    for name in (*COPIED, *LEFT):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(f"content of {name}" if name != "layercut_source.json" else "{}")
    report = cut_model(resolve_source(str(source)), PLAN, tmp_path / "cut", uncut=None)
    assert set(report.copied) == set(COPIED)
    expected = {*COPIED, "README.uncut.md", "config.json", "model.safetensors", "plan.json"}
    assert {str(path.relative_to(report.out)) for path in report.out.rglob("*") if path.is_file()} == expected
    for name in set(COPIED) - {"README.md"}:
        assert (report.out / name).read_text() == f"content of {name}"
    assert (report.out / "README.uncut.md").read_text() == "content of README.md"
    assert "# uncut, 2 decoder layers removed" in (report.out / "README.md").read_text()


def test_links_of_a_hub_cache_become_files(source, tmp_path):
    blob = tmp_path / "blob"
    for name in ("model.safetensors", "tokenizer.json"):
        (source / name).rename(f"{blob}-{name}")
        (source / name).symlink_to(f"{blob}-{name}")
    report = cut_checkpoint(source, PLAN, tmp_path / "cut")
    assert not any(path.is_symlink() for path in report.out.iterdir())
    assert (report.out / "tokenizer.json").read_bytes() == Path(f"{blob}-tokenizer.json").read_bytes()


def test_config_and_plan_as_written(source, tmp_path):
    edit_json(source / "config.json", my_own_field={"kept": True}, num_hidden_layers=NUM_LAYERS)
    before = json.loads((source / "config.json").read_text())
    report = cut_checkpoint(source, PLAN, tmp_path / "cut")
    older = {"rope_theta": before["rope_parameters"]["rope_theta"]}
    assert json.loads((report.out / "config.json").read_text()) == {**before, **older, "num_hidden_layers": 4}
    assert CutPlan.load(report.out / "plan.json") == PLAN
    assert not (report.out / "earlier_plans.json").exists()


def test_an_empty_folder_is_used_and_a_full_one_refused(source, tmp_path):
    (tmp_path / "cut").mkdir()
    cut_checkpoint(source, PLAN, tmp_path / "cut")
    before = (tmp_path / "cut" / "model.safetensors").stat().st_mtime_ns
    for out, message in (
        (tmp_path / "cut", "cut exists already"),
        (source / "config.json", "exists already"),
        (source / "config.json" / "cut", "File exists at"),
    ):
        with pytest.raises(InputError, match=message):
            cut_checkpoint(source, PLAN, out)
    assert (tmp_path / "cut" / "model.safetensors").stat().st_mtime_ns == before


def test_a_disk_that_is_full_or_cannot_be_written_is_one_line(source, tmp_path):
    with small_disk(tmp_path / "disk", 100_000) as disk:
        with pytest.raises(InputError, match="needs 164 kB .*too little"):
            cut_checkpoint(source, PLAN, tmp_path / "disk" / "deep" / "cut")
        assert list((tmp_path / "disk").iterdir()) == []
        disk.resize(300_000)
        disk.read_only()
        for out in (tmp_path / "disk" / "cut", tmp_path / "disk" / "deep" / "cut"):
            with pytest.raises(InputError, match="Read-only file system"):
                cut_checkpoint(source, PLAN, out)
        # What a killed cut left does not take the room of the next.
        disk.resize(250_000)
        left = tmp_path / "disk" / ".cut.layercut-abcdefgh"
        left.mkdir()
        (left / "model.safetensors").write_bytes(bytes(200_000))
        assert cut_checkpoint(source, PLAN, tmp_path / "disk" / "cut").out == tmp_path / "disk" / "cut"


def test_a_disk_that_fills_while_writing_leaves_nothing_and_with_room_it_goes_on(source, tmp_path, monkeypatch):
    with small_disk(tmp_path / "disk", 300_000):
        ballast, out = tmp_path / "disk" / "ballast", tmp_path / "disk" / "cut"
        write = checkpoint.shards.write_shards

        def fill(*args):
            if not ballast.exists():
                with pytest.raises(OSError, match="No space"):
                    ballast.write_bytes(bytes(300_000))
            write(*args)

        with monkeypatch.context() as patched, pytest.raises(InputError, match="nothing of it"):
            patched.setattr(checkpoint.shards, "write_shards", fill)
            cut_checkpoint(source, PLAN, out)
        assert list((tmp_path / "disk").iterdir()) == [ballast]
        ballast.unlink()
        assert cut_checkpoint(source, PLAN, out).out == out


def test_ctrl_c_and_truncated_weights_leave_nothing(source, tmp_path):
    def interrupt(folder, report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_checkpoint(source, PLAN, tmp_path / "there" / "cut", check=interrupt)
    assert not (tmp_path / "there").exists()
    os.truncate(source / "model.safetensors", 20_000)
    with pytest.raises(CheckpointError, match="truncated"):
        cut_checkpoint(source, PLAN, tmp_path / "there" / "cut")
    assert not (tmp_path / "there").exists()


def _cut_and_be_killed(source, out):
    torch.set_num_threads(1)
    cut_checkpoint(source, PLAN, out, check=lambda folder, report: os.kill(os.getpid(), signal.SIGKILL))


def test_kill_9_leaves_nothing_under_the_final_name(source, tmp_path):
    out = tmp_path / "there" / "cut"
    process = multiprocessing.get_context("fork").Process(target=_cut_and_be_killed, args=(source, out))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert not out.exists()
    (half,) = find_leftovers(out.parent)[:1]  # it had begun
    assert half.num_bytes > 0
    (out.parent / ".cut.backup01").mkdir()  # somebody's own
    assert cut_checkpoint(source, PLAN, out).out == out  # and can begin again
    assert {path.name for path in out.parent.iterdir()} == {"cut", ".cut.backup01"}


def test_of_two_at_once_one_is_told_and_the_other_whole(source, tmp_path):
    out, started, go = tmp_path / "cut", Event(), Event()

    def wait(folder, report):
        started.set()
        assert go.wait(60)

    with ThreadPoolExecutor() as pool:
        first = pool.submit(cut_checkpoint, source, PLAN, out, check=wait)
        assert started.wait(60)
        with pytest.raises(InputError, match=r"layercut process \(pid \d+\)"):
            cut_checkpoint(source, CutPlan(num_layers=6, removed=(1,)), out)
        assert find_leftovers(tmp_path) == []  # nothing of it may be removed
        go.set()
        assert first.result(60).out == out
    assert {path.name for path in tmp_path.iterdir()} == {"cut", "uncut"}
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == len(PLAN.kept)


def lose_layer_3(tensors):
    for name in [name for name in tensors if ".layers.3." in name]:
        del tensors[name]


def add_a_layer(tensors):
    tensors["model.layers.6.x.weight"] = torch.ones(1)


@pytest.mark.parametrize(
    ("change", "fields", "plan", "error", "message"),
    [
        (add_a_layer, {}, PLAN, CheckpointError, "6.x.*6 decoder"),
        (lose_layer_3, {}, PLAN, CheckpointError, "no weights of layer 3"),
        (dict, {"model_type": "mamba"}, PLAN, InputError, "no weights of layer 0"),
        (dict, {"num_attention_heads": "many"}, PLAN, CheckpointError, "config that transformers accepts"),
        (dict, {}, CutPlan(num_layers=32, removed=(31,)), InputError, "model of 32"),
    ],
)
def test_a_checkpoint_that_is_not_as_its_config_or_plan_says_is_refused(source, change, fields, plan, error, message):
    edit_tensors(source / "model.safetensors", change)
    edit_json(source / "config.json", **fields)
    with pytest.raises(error, match=message):
        plan_cut(source, plan)


def test_layers_for_multi_token_prediction_move_up(source, tmp_path):
    edit_tensors(source / "model.safetensors", add_a_layer)
    edit_json(source / "config.json", num_nextn_predict_layers=1)
    report = cut_checkpoint(source, PLAN, tmp_path / "cut")
    assert load_file(report.out / "model.safetensors")["model.layers.4.x.weight"] == 1


def test_earlier_steps_record_healings_and_no_cut_that_only_tied_a_copy_of_the_embeddings():
    """Else a GGUF file that was cut twice is called a healed checkpoint."""
    bare, healed = CutPlan(num_layers=2).to_dict(), PLAN.to_dict() | {"healing": [{"method": "seam"}]}
    assert steps_of_earlier_cuts([bare]) == ()
    (step,) = steps_of_earlier_cuts([bare, healed])
    assert (step["num_layers"], step["removed"], step["healed"]) == (6, [1, 4], ["seam"])
    again = CutPlan(num_layers=4, removed=(0,)).to_dict()
    steps = steps_of_earlier_cuts([PLAN.to_dict() | {"healing": [{"method": "lora"}]}, again])
    assert [step.get("healed") for step in steps] == [["lora"], None]


@pytest.mark.parametrize(("removed", "warned"), [((0,), True), ((0, 1), False), ((5,), False), ((2, 3), False)])
def test_kinds_out_of_the_familys_order_are_pointed_out(removed, warned, tmp_path):
    """gemma2 alternates sliding and full attention; engines that use the position must know of exceptions."""
    source = save_tiny("gemma2", tmp_path / "uncut")
    edit_json(source / "config.json", layer_types=None)
    report = plan_cut(source, plan_of(removed))
    assert [text.split(" of the kept")[0] for text in report.warnings] == (["layer_types"] if warned else [])


def test_a_plan_that_the_familys_config_cannot_express_is_refused(source, monkeypatch):
    """Some config classes overrule the list they are given; what transformers would read otherwise is not written."""
    from transformers.models.llama.configuration_llama import LlamaConfig

    read = LlamaConfig.from_dict.__func__

    def overrule(cls, *args, **kwargs):
        config = read(cls, *args, **kwargs)
        if hasattr(config, "layer_types"):
            config.layer_types[-1] = "full_attention"
        return config

    edit_json(source / "config.json", layer_types=["sliding_attention", "full_attention"] * 3)
    monkeypatch.setattr(LlamaConfig, "from_dict", classmethod(overrule))
    assert plan_cut(source, plan_of((0, 1))).parameters_after
    with pytest.raises(InputError, match="layer_types of the pruned"):
        plan_cut(source, plan_of((5,)))
