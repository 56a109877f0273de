"""Sources of prompts that count by what is lost of them: the weights, the loss, a stop, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from layercut.errors import InputError
from layercut.healing.data import split
from layercut.healing.examples import Data, encode_example, hold_out
from layercut.healing.prompt_sources import OTHER, PromptSource, PromptSpec, check_sources, prompt_source
from layercut.healing.settings import TrainSettings
from tests.support.healing import record
from tests.support.tiny import byte_tokenizer, tiny_model
from tests.unit.healing.test_batches import batch_of

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")
pytest.importorskip("peft", reason="healing by training needs layercut[heal]")

from layercut.healing.distill import divergence
from layercut.healing.mixture import Mixture
from tests.unit.healing.test_sft import Killed, heal, losses, settings

LENGTHS = {"sums": 2, "lists": 20}
"""Letters of an answer, by source."""


def sourced(count: int = 12, share: float = 0.2) -> Data:
    """Half of the examples from a source of short answers, half from one of long ones."""
    records = [
        record(f"{name} {index}", f"{name} {index}", str(index % 10) * length)
        for name, length in LENGTHS.items()
        for index in range(count)
    ]
    examples = [encode_example(byte_tokenizer(), one) for one in records]
    return hold_out(examples, share, 1, {one.id: one.id.split()[0] for one in examples})


DATA = sourced()
WANTED = {"objective": "forward-kl", "mixture": "damage"}


def test_the_share_of_a_source_in_the_loss_is_its_share_of_the_damage() -> None:
    mixture = Mixture(DATA)
    assert mixture.names == ["lists", "sums"]
    history = [
        {"held_out_of": {"lists": 9.0, "sums": 1.0}},
        {"loss": 1.0},
        {"held_out_of": {"lists": 1.0, "sums": 3.0}},
    ]
    batch = batch_of(DATA.train, packed=True)
    weights_N = mixture.weights(batch, history)
    assert len(weights_N) == DATA.num_tokens and weights_N.mean().item() == pytest.approx(1)
    of_sums = torch.cat([torch.full((len(one.completion),), one.id.startswith("sums")) for one in ordered(batch)])
    assert weights_N[of_sums].sum().item() == pytest.approx(0.75 * len(weights_N)), "the last evaluation decides"
    assert len(set(weights_N.tolist())) == 2, "tokens of one source weigh the same"


def test_where_nothing_is_lost_every_token_counts_the_same() -> None:
    weights_N = Mixture(DATA).weights(
        batch_of(DATA.train, packed=False), [{"held_out_of": {"lists": 0, "sums": -1e-9}}]
    )
    assert torch.allclose(weights_N, torch.ones_like(weights_N))


def test_each_source_holds_examples_out() -> None:
    names = [one.id.split()[0] for one in DATA.held_out]
    assert sorted(names) == ["lists"] * 2 + ["sums"] * 2
    alone = [one for one in [*DATA.train, *DATA.held_out] if one.id in ("sums 0", "lists 0", "lists 1")]
    with pytest.raises(InputError, match="sums has one example, and `mixture` damage holds one out of each source"):
        hold_out(alone, 0.2, 1, DATA.source_of)
    plain = split(alone, settings(), lambda text: None, DATA.source_of)
    assert plain == hold_out(alone, settings().held_out, settings().seed), "without a mixture sources do not matter"


def test_held_out_losses_are_those_of_the_sources_and_the_first_step_is_weighted_by_them(tmp_path: Path) -> None:
    wanted = settings(**WANTED, max_steps=1, save_every=1, batch_size=4, micro_batch=2, dropout=0.0)
    trained = heal(tmp_path / "damage", wanted, data=DATA)
    before, step = trained.curve[0], trained.curve[1]
    cut, uncut = tiny_model("llama"), tiny_model("llama", seed=1)

    def kl(example: Any) -> torch.Tensor:
        ids = torch.tensor([example.input_ids])
        with torch.no_grad():
            ours, theirs = (model(input_ids=ids).logits[0, len(example.prompt) - 1 : -1] for model in (cut, uncut))
        return divergence(ours, theirs, "forward-kl")

    lost = {
        name: torch.cat([kl(one) for one in DATA.held_out if DATA.source_of[one.id] == name]).mean().item()
        for name in LENGTHS
    }
    assert before["held_out_of"] == pytest.approx(lost, rel=1e-4)
    assert before["held_out_loss"] == pytest.approx(sum(lost.values()) / 2, rel=1e-4), "the mean over sources"
    read = seen_in_the_first_step(wanted)
    tokens = {name: sum(len(one.completion) for one in DATA.train if one.id.startswith(name)) for name in LENGTHS}
    weight = {name: lost[name] / sum(lost.values()) * sum(tokens.values()) / tokens[name] for name in LENGTHS}
    of_step = [(weight[DATA.source_of[one.id]] * kl(one)).sum().item() for one in read]
    assert step["loss"] == pytest.approx(sum(of_step) / sum(len(one.completion) for one in read), rel=1e-3)
    assert weight["sums"] > 2 > 1 > weight["lists"]
    plain = heal(
        tmp_path / "tokens", settings(objective="forward-kl", max_steps=1, save_every=1, dropout=0.0), data=DATA
    )
    assert "held_out_of" not in plain.curve[0] and plain.curve[1]["loss"] != step["loss"]


def test_stopped_and_resumed_has_the_losses_of_a_run_through(tmp_path: Path) -> None:
    wanted = settings(**WANTED, packing=True)
    whole = heal(tmp_path / "whole", wanted, data=DATA)
    with pytest.raises(Killed):
        heal(tmp_path / "killed", wanted, data=DATA, kill_at=3)
    resumed = heal(tmp_path / "killed", wanted, data=DATA)
    assert losses(resumed) == losses(whole)
    of_sources = [line["held_out_of"] for line in whole.curve if "held_out_of" in line]
    assert len(of_sources) == 3 and of_sources[0] != of_sources[1] != of_sources[2]
    name = "adapter_model.safetensors"
    assert (resumed.final / name).read_bytes() == (whole.final / name).read_bytes()


def test_sources_go_by_the_names_that_users_give(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("Say A\nSay B\n")
    source = prompt_source([PromptSpec(source="task:copy", limit=2), PromptSpec(source=str(file))])
    answers = [{"id": prompt.id} for prompt in source.prompts]
    assert list(source.names_of(answers).values()) == ["copy", "copy", str(file), str(file)]
    several = {"id": f"{answers[0]['id']}#2", "prompt_id": answers[0]["id"]}
    assert source.names_of([several]) == {several["id"]: "copy"}
    given = PromptSource(records=[{"id": "a", "task": "copy"}, {"id": "b", "source": "mine.txt"}, {"id": "c"}])
    assert given.names == {"copy", "mine.txt", OTHER}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"objective": "sft"}, "by sft the divergence of a source's held-out answers is not known"),
        ({"objective": "on-policy"}, "by on-policy the divergence"),
        ({"objective": "jsd", "held_out": 0}, "without held-out examples the divergence"),
    ],
)
def test_what_measures_no_damage_is_refused(more: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        TrainSettings(mixture="damage", **more)


def test_a_single_source_is_refused_before_anything_is_answered() -> None:
    wanted = TrainSettings(**WANTED)
    with pytest.raises(InputError, match=r"and there is one \(copy\); give several"):
        check_sources(wanted, prompt_source([PromptSpec(source="task:copy", limit=2)]))
    check_sources(TrainSettings(), prompt_source([PromptSpec(source="task:copy", limit=2)]))


def test_the_default_changes_no_record_of_a_healing() -> None:
    assert "mixture" not in TrainSettings().in_effect()
    assert TrainSettings(**WANTED).in_effect()["mixture"] == "damage"
    assert json.loads(json.dumps(TrainSettings(**WANTED).as_dict()))["mixture"] == "damage"


def ordered(batch: Any) -> list[Any]:
    """The examples of a batch in its order."""
    from layercut.healing.batches import rows

    by_prompt = {one.prompt: one for one in DATA.train}
    return [by_prompt[row.prompt] for row in rows(batch)]


def seen_in_the_first_step(wanted: TrainSettings) -> list[Any]:
    """The examples that the first step learns from."""
    from layercut.healing.batches import StepsByLength

    order = list(StepsByLength([len(one) for one in DATA.train], wanted.batch_size, wanted.seed))
    return [DATA.train[index] for index in order[: wanted.batch_size]]
