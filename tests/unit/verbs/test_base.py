"""One door: flags, YAML and Python build the same request of every verb, and each field can be set through each."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from layercut import api
from layercut.base_settings import choices_of
from layercut.errors import InputError
from layercut.verbs import VERBS, verb_class
from layercut.verbs.base import Slot, Verb, field_slots, plain_type
from layercut.verbs.results import PushVerb

PYTHON: dict[str, Callable[..., Any]] = {
    verb: getattr(api, name)
    for verb in VERBS
    if hasattr(api, name := verb_class(verb).FUNCTION or verb.replace("-", "_"))
}
NEEDED: dict[str, dict[str, Any]] = {
    "prune": {"use": "copy"},
    "select": {"criterion": "task_accuracy", "objective": "copy"},
    "cut": {"remove": "2"},
    "eval": {"tasks": "copy"},
    "generate": {"prompt": ["hi"]},
    "heal": {"prompts": "task:copy", "out": "o", "teacher": "t"},
    "sweep": {"objective": "copy"},
    "diagnose": {"cuts": ["2"]},
    "compare": {"first": "f", "second": "g"},
    "push": {"folder": "f", "repo": "me/m"},
}
"""Fields without which there is no request, beside the model."""
VALUES: dict[str, Any] = {
    "use": "math", "tasks": "arithmetic", "keep": 0.5, "smaller": 0.2, "remove": "reverse:1", "heal": "none",
    "faster": 1.5,
    "criterion": "trace_damage", "objective": "arithmetic", "readouts": "short", "protect": "first:1",
    "prompts": "task:arithmetic", "data": {"copy": "x"}, "device": "cpu", "dtype": "float32",
    "engine": "plain", "engine_pool": "local:2", "layers": "1-2", "split": "report", "only": "brackets",
    "decontaminate": "copy", "preset": "paper", "readout": "chain", "settings": {"a": "b"},
    "cuts": ["1"], "compare": ["p.json"], "prompt": ["a, b"], "data_dir": "src", "languages": "en", "top_p": 0.5,
}  # fmt: skip
"""Of fields that take no word, 9 or 0.25."""
CONTRADICT = {"prune": {"tasks"}, "eval": {"base_url"}, "generate": {"prompts", "base_url"}}
"""Some fields that the needed ones exclude: all doors refuse them alike."""


class Built(BaseException):
    """Carries the request out of a door."""


def value_of(slot: Slot) -> Any:
    """A value of a field that is not its default."""
    if slot.name == "remove" and slot.kind.__name__ in ("SelectVerb", "PruneSettings"):
        return "2 layers"
    if slot.name in VALUES:
        return VALUES[slot.name]
    plain, default = plain_type(slot.info.annotation), slot.info.default
    if names := [one for one in choices_of(slot.info) if one != default]:
        return names[0]
    return not default if plain is bool else {int: 9, float: 0.25}.get(plain, "word")


def words_of(name: str, value: Any, slot: Slot) -> list[str]:
    """A field as the command line takes it, by its field's name."""
    if isinstance(value, dict):
        value = [f"{key}={one}" for key, one in value.items()]
    if slot.name in ("model", "folder", "first", "second", "repo"):
        return [str(value)]
    flag = "--set" if name == "settings" else f"--{name.replace('_', '-')}"
    if slot.name == "cuts":
        return list(value)
    if isinstance(value, bool):
        negative = {"verify": ["--no-verify"], "finished_only": ["--keep-unfinished"]}
        return [flag] if value else negative[name]
    return [word for one in (value if isinstance(value, list) else [value]) for word in (flag, str(one))]


def outcome(call: Callable[[], object]) -> Any:
    """The request that a door built, or what it said."""
    try:
        return call()
    except Built as built:
        return built.args[0]
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("verb", NEEDED)
def test_the_three_doors_build_the_same_request_from_every_field(verb, layercut, tmp_path, monkeypatch):
    kind, known = verb_class(verb), field_slots(verb_class(verb))

    def caught(request: Verb) -> None:
        raise Built(request)

    monkeypatch.setattr(kind, "fit", caught)
    needed = {**({"model": "m"} if "model" in known else {}), **NEEDED[verb]}
    refused = set()
    for name, slot in known.items():
        given = {**needed, name: value_of(slot)}
        python = outcome(lambda given=given: PYTHON[verb](**given))
        file = tmp_path / "request.yaml"
        file.write_text(yaml.safe_dump({verb: given}), encoding="utf-8")
        of_yaml = outcome(lambda file=file: api.run_study(file, trust_study_code=True))
        ordered = sorted(given, key=lambda one: list(known).index(one))
        words = [word for one in ordered for word in words_of(one, given[one], known[one])]
        flags = outcome(lambda words=words: layercut(verb, *words))
        if isinstance(python, str):
            refused.add(name)
            assert of_yaml == python and flags.code == 1, (name, of_yaml, python)
            continue
        assert isinstance(of_yaml, kind), (name, of_yaml)
        assert of_yaml.flat() == python.flat(), name
        assert name in python.flat() and python.flat()[name] != slot.info.default, name
        assert isinstance(flags, kind), (name, flags)
        assert flags.flat() == python.flat(), name
        again = yaml.safe_load(python.to_yaml())[verb]
        assert kind.of(**again).flat() == python.flat(), name
    assert CONTRADICT.get(verb, set()) <= refused
    assert len(refused) < 0.35 * len(known), refused


def test_a_request_is_printed_as_yaml_that_run_takes(layercut, tmp_path):
    printed = layercut("plan-size", "--baseline", "60%", "--retention", "0.9", "--print-request").out
    assert yaml.safe_load(printed) == {"plan-size": {"baseline": 0.6, "retention": 0.9}}
    file = tmp_path / "request.yaml"
    file.write_text(printed, encoding="utf-8")
    asked = layercut("run", file, "--json")
    typed = layercut("plan-size", "--baseline", "0.6", "--retention", "0.9", "--json")
    assert asked.code == 0 and asked.out == typed.out
    dry = layercut("run", file, "--dry-run")
    assert dry.code == 1 and "plan-size has no dry run; leave out --dry-run." in dry.err


def test_a_request_is_checked_without_torch():
    code = "import sys; from layercut.verbs import VERBS, verb_class; [verb_class(one) for one in VERBS]; "
    code += "sys.exit(' '.join({'torch', 'transformers', 'lm_eval', 'trl'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.strip() == ""


@pytest.mark.parametrize("verb", ["cut", "eval"])
def test_a_request_file_runs_no_code_unless_it_is_trusted(verb, layercut, tiny, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    given = {"model": str(tiny), "remove": "evil:layers:1", "out": str(tmp_path / "out"), "tasks": "copy"}
    asked = {name: one for name, one in given.items() if name in field_slots(verb_class(verb))}
    file = tmp_path / "request.yaml"
    file.write_text(yaml.safe_dump({verb: asked}), encoding="utf-8")
    refused = layercut("run", file)
    assert refused.code == 1 and "--trust-study-code" in refused.err and not (tmp_path / "ran").exists()


def test_nothing_is_looked_at_before_it_is_asked_for(tmp_path):
    request = PushVerb.of(folder=str(tmp_path), repo="me/small", private=True)
    assert request.private and request.folder == tmp_path
    with pytest.raises(InputError, match="holds no checkpoint"):
        _ = request.upload
