from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from layercut.engine.base import Completion, GenerationRequest
from layercut.healing.generate import gather_answers
from layercut.healing.prompt_sources import RESPONSES, Answering, PromptGroup, PromptSource
from layercut.healing.prompts import NamedPrompt, make_prompt
from layercut.runs.records import read_records
from layercut.settings import DecodingSettings
from layercut.surgery.plan import CutPlan
from tests.support.fake_engine import FakeEngine, Killed

PLAN = CutPlan(num_layers=6, removed=(2, 4))


class HashedEngine(FakeEngine):
    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "model_hash": "abc"}


def echo(request: GenerationRequest, plan: CutPlan) -> str:
    return f"answer to {request.id}"


def prompts(count: int) -> list[NamedPrompt]:
    return [NamedPrompt(f"p{number}", make_prompt(f"say {number}").prompt) for number in range(count)]


def generate(path: Path, engine: FakeEngine, group: PromptGroup) -> list[dict[str, Any]]:
    handle: Any = SimpleNamespace(settings=SimpleNamespace(model="tiny"), engine=engine)
    source = PromptSource(parts=(group,))
    how = Answering(decoding=DecodingSettings(temperature=0.9, top_p=0.95), max_new_tokens=20)
    gather_answers(handle, PLAN, source, how, 42, path, Console(quiet=True))
    return read_records(path / RESPONSES)


def test_a_record_says_who_answered_what_how_and_how_it_ended(tmp_path, monkeypatch):
    long = Completion(id="p1", text="on and", finish_reason="length", num_prompt_tokens=7, num_new_tokens=20)
    engine = HashedEngine(lambda request, _: long if request.id == "p1" else "four words are here")
    task: Any = SimpleNamespace(name="copy", settings=dict)
    samples: Any = {prompt.id: prompt for prompt in prompts(2)}
    monkeypatch.setattr(PromptGroup, "are_right", lambda self, answers: [True] * len(answers))
    group = PromptGroup(prompts(2), task, "short", samples, ("!",), 20)
    first, second = generate(tmp_path, engine, group)
    assert first == {
        "id": "p0",
        "prompt": [{"role": "user", "content": "say 0"}],
        "completion": "four words are here",
        "finish_reason": "stop",
        "num_prompt_tokens": 2,
        "num_new_tokens": 4,
        "seed": 42,
        "model_hash": "abc",
        "removed": [2, 4],
        "stop": ["!"],
        "task": "copy",
        "right": True,
    }
    assert (second["finish_reason"], second["num_prompt_tokens"], second["num_new_tokens"]) == ("length", 7, 20)


def test_killed_and_resumed_it_goes_on_by_id_and_changes_nothing(tmp_path):
    group = PromptGroup(prompts(9), source="here.txt")
    whole = generate(tmp_path / "whole", HashedEngine(echo), group)
    file = tmp_path / "killed" / RESPONSES
    seen = []
    for _ in range(20):
        engine = HashedEngine(echo, kill_after=1)
        try:
            generate(tmp_path / "killed", engine, group)
            break
        except Killed:
            text = file.read_text()
            assert text.startswith(seen[-1] if seen else "") and len(text) > len(seen[-1] if seen else "")
            seen.append(text)
            file.write_text(text + '{"id": "torn')  # what kill -9 may leave behind
    assert len(seen) == -(-9 // 4) - 1
    assert file.read_bytes() == (tmp_path / "whole" / RESPONSES).read_bytes()
    assert len(whole) == 9 and whole[0]["source"] == "here.txt"
