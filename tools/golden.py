"""The golden record: does the work tree give what a base commit gives, on this machine?

    python tools/golden.py                          # all cases, base and work tree one after the other
    python tools/golden.py --base v0.2 --only cuts  # some of them, against a tag

Each case is a few commands of layercut. They run with the source of the base commit and with that of the work tree, in
the same environment and on the same inputs. What a user relies on is read from the folders that they write: plans,
answers and scores of items, rows with verdicts and bounds, losses, weights. Texts and whole numbers have to be equal,
other numbers within 1e-4, weights tensor by tensor. What the base has and the work tree lacks is a difference; what is
new is none. The base's record is kept by its commit, so that the next check runs the work tree alone.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]

RENAMED: dict[str, str | None] = {
    "arithmetic.first_digit": None,
    "first digit (paper)": None,
    "first digit log-probability (paper)": None,
    "Self-BLEU-4 (paper)": None,
    "js": None,  # measure of trace damage
    "measure=place": None,
    "measure=in the top 10": None,
    "measure=1 / rank": None,
    "measure=clamped": None,
    "measure=gold rank": None,
    "measure=one more example": None,
    **dict.fromkeys(("uncut.top1", "uncut.sure", "measure=kl uncut.nll", "measure=kl uncut.kl")),
    **{f"measure={name}": None for name in ("distinct-1", "distinct-2", "longest loop")},
    **{f"propagation.clamped_{share}": None for share in (0, 25, 50, 75, 100)},
    "checkpoint/healing_loss.jsonl": None,
}
"""Old name to new name, or to None for what has ended: flags (``--objective``), verbs (``plan-size``), folders and
files of a run (``reverse-3/heal-seam``), and fields of a record (``kept``). The only part that changes with a move."""
TOLERANCE = 1e-4
ROW_NAMES = ("task", "measure")
"""A JSON object with one of these is a row of scores."""
LABELS = ("run", "name", "arm", "plan", "layer", "depth", "task", "diagnostic", "measure", "group", "readout", "metric")
"""Fields that say which row it is; those of the objects around it count too."""
ROW_FIELDS = (
    "value", "low", "high", "n", "chance", "uncut", "cut", "first", "second", "difference", "kept", "retention",
    "retention_above_chance", "bound", "passed", "verdict", "lost", "gained", "p_value", "outcomes",
)  # fmt: skip
"""Side effects have an adjusted ``p``, which depends on how many there are: their items are compared instead."""
DECISIONS = ("verdict", "removed", "healing", "passed", "items_needed", "layers")
"""Fields of an object with a name that are no row: what was decided of a plan."""
ITEM_FIELDS = (
    "completion", "answer", "outcome", "metrics", "log_likelihoods", "finish_reason", "nll", "kl", "right", "prompt"
)  # fmt: skip
LOSSES = ("loss", "held_out_loss", "tokens")
FAMILIES = (
    "bloom", "cohere2", "deepseek_v2", "deepseek_v3", "exaone4", "falcon", "gemma", "gemma2", "gemma3",
    "gemma3_text", "glm4", "gpt2", "gpt_neox", "gpt_oss", "gptj", "granite", "granitemoe", "granitemoehybrid",
    "hunyuan_v1_dense", "jamba", "lfm2", "llama", "mistral", "mixtral", "nemotron", "olmo", "olmo2",
    "olmo3", "opt", "phi", "phi3", "qwen2", "qwen2_moe", "qwen2_vl", "qwen3", "qwen3_moe", "qwen3_next", "smollm3",
    "stablelm", "starcoder2",
)  # fmt: skip
SMOLLM = "bundled:smollm2-135m"
HEAL = {"prompts": "task:arithmetic", "limit": 16, "responses": "original"}
STUDY = {
    "model": SMOLLM, "seed": 0, "out": "study", "plans": {"reverse-3": "reverse:3"},
    "healing": [
        {**HEAL, "name": "seam", "method": "seam"},
        {**HEAL, "name": "lora", "method": "lora", "max_steps": 3, "batch_size": 4, "warmup_steps": 1, "held_out": 0.2},
    ],
    "tasks": [{"task": "arithmetic", "limit": 16}, {"task": "copy", "limit": 16}],
}  # fmt: skip


class Case(NamedTuple):
    """Commands that run one after the other in an empty folder; ``{inputs}`` is the folder of models and texts."""

    name: str
    commands: tuple[str, ...]


def cut_family(name: str) -> list[str]:
    """Commands that cut a tiny model three ways: layers, channels, both chosen."""
    model, text = f"{{inputs}}/models/{name}", "--calibration {inputs}/text.txt"
    return [
        f"cut {model} --remove 1,3 --out {name}/layers",
        f"select {model} --remove mlp:0.5 {text} --out {name}/select-channels",
        f"cut {model} --remove {name}/select-channels/plan.json --out {name}/channels",
        f"select {model} --criterion block_influence --remove '2 layers mlp:0.5' {text} --out {name}/select-both",
        f"cut {model} --remove {name}/select-both/plan.json --out {name}/both",
    ]


CASES = (
    Case("compare", ("compare {inputs}/compare_logs/original {inputs}/compare_logs/without_25 --json",)),
    Case("gguf", (
        "cut {inputs}/tiny.gguf --remove 1,3 --out layers.gguf",
        "cut {inputs}/tiny.gguf --remove 'mlp:0.5' --out channels.gguf",
        "cut {inputs}/tiny.gguf --remove 2 --out folder",
    )),
    Case("cuts", tuple(command for name in FAMILIES for command in cut_family(name))),
    Case("select", (f"select {SMOLLM} --criterion task_accuracy --objective copy --remove '2 layers' --limit 8 "
                    "--held-out 8 --out select",)),
    Case("trace_damage", (f"select {SMOLLM} --criterion trace_damage --objective copy --remove '4 layers' --limit 4 "
                          "--held-out 0 --out select",)),
    Case("sweep", (f"sweep {SMOLLM} --objective arithmetic,copy --limit 8 --out sweep --json",)),
    Case("diagnose", (f"diagnose {SMOLLM} reverse:3 --limit 4 "
                      "--only arithmetic,brackets,degeneration,propagation --out diagnose --json",)),
    Case("study", ("run {inputs}/study.yaml",)),
    Case("prune", (f"prune {SMOLLM} --use copy --keep 0.8 --items 60 --smaller 25% --one-size --anyway "
                   "--out prune",)),
)  # fmt: skip


def main() -> None:
    """Run the cases with both sources, print what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="commit or tag to compare with; the merge base with main if left out")
    parser.add_argument("--only", help=f"cases, separated by commas: {', '.join(case.name for case in CASES)}")
    parser.add_argument("--keep", type=Path, default=ROOT / "runs" / "golden", help="folder of inputs and records")
    parser.add_argument("--again", action="store_true", help="run the base again, although its record is there")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return run_commands(options.inside)
    names = options.only.split(",") if options.only else [case.name for case in CASES]
    if unknown := set(names) - {case.name for case in CASES}:
        parser.error(f"unknown case {', '.join(sorted(unknown))}")
    cases = [case for case in CASES if case.name in names]
    keep: Path = options.keep.resolve()
    make_inputs(keep / "inputs")
    shutil.rmtree(keep / "worktree" / "cache", ignore_errors=True)  # what another state of the source converted
    commit = find_commit(options.base)
    base = extract_source(commit, keep / commit[:12])
    differing = [case.name for case in cases if not check_case(case, keep, base, again=options.again)]
    print(f"{len(cases) - len(differing)} of {len(cases)} cases give what {commit[:12]} gives")
    if differing:
        sys.exit(1)
    return None


def check_case(case: Case, keep: Path, base: Path, *, again: bool) -> bool:
    """Run a case with both sources, print its seconds and the first difference of five files. True if none is there."""
    wanted = record_case(case, base / "src", base / case.name, keep / "inputs", reuse=not again, rename=False)
    record = record_case(case, ROOT / "src", keep / "worktree" / case.name, keep / "inputs", reuse=False, rename=True)
    differences = compare_records(
        rename_record(wanted["record"]), record["record"], base / case.name, keep / "worktree" / case.name
    )
    seconds = f"base {wanted['seconds']:.0f} s, work tree {record['seconds']:.0f} s"
    state = f"{len(differences)} differences" if differences else f"equal ({len(record['record'])} values)"
    by_file = {line.split(" ")[0]: line for line in reversed(differences)}
    shown = sorted(by_file.values(), key=differences.index)[:5]
    print(f"{case.name}: {state} ({seconds})", *(f"  {line}" for line in shown), sep="\n", flush=True)
    return not differences


# Inputs and sources


def make_inputs(folder: Path) -> None:
    """Write the tiny models, the text and the study once; both sources read the same files."""
    if (folder / "done").exists():
        return
    for path in (ROOT, ROOT / "src", ROOT / "benchmarks"):
        sys.path.insert(0, str(path))
    import families

    from tests.support.tiny import byte_tokenizer
    from tests.unit.models.gguf_maker import write_gguf

    folder.mkdir(parents=True, exist_ok=True)
    with families.hf_quiet():
        for name in FAMILIES:
            config = families.tiny_config(name)
            model = families.whole_of(families.tiny_model(config), config)
            model.save_pretrained(folder / "models" / name)
            byte_tokenizer().save_pretrained(folder / "models" / name)
    write_gguf(folder / "tiny.gguf")
    shutil.copytree(ROOT / "examples" / "compare_logs", folder / "compare_logs", dirs_exist_ok=True)
    words = ["layers", "are", "removed", "from", "a", "model", "7", "and", "what", "it", "keeps", "is", "measured"]
    lines = [" ".join(words[(line * 5 + at * at) % len(words)] for at in range(40)) for line in range(8)]
    (folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "study.yaml").write_text(json.dumps(STUDY), encoding="utf-8")
    (folder / "done").touch()


def find_commit(base: str | None) -> str:
    """The commit to compare with."""
    words = ["rev-parse", f"{base}^{{commit}}"] if base else ["merge-base", "HEAD", "main"]
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def extract_source(commit: str, folder: Path) -> Path:
    """The folder of a commit's records, with its ``src``."""
    if not (folder / "src").exists():
        packed = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
    return folder


# Running


def record_case(case: Case, source: Path, folder: Path, inputs: Path, *, reuse: bool, rename: bool) -> dict[str, Any]:
    """Run the commands of a case in ``folder`` with the layercut of ``source``, and read what they wrote.

    With ``reuse``, a folder that the same commands wrote of the same inputs is read again, and nothing is run.
    """
    commands = [command.replace("{inputs}", str(inputs)) for command in case.commands]
    done = folder.with_suffix(".json")
    key = hashlib.sha256(json.dumps([commands, hash_inputs(inputs)]).encode()).hexdigest()
    if reuse and done.exists() and (kept := json.loads(done.read_text(encoding="utf-8")))["key"] == key:
        return {"seconds": kept["seconds"], "record": dict(read_folder(folder))}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    todo = folder / "commands.json"
    todo.write_text(
        json.dumps([rename_command(command) if rename else command for command in commands]), encoding="utf-8"
    )
    environment = {
        **os.environ, "PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1", "LAYERCUT_CACHE": str(folder.parent / "cache")
    }  # fmt: skip
    start = time.perf_counter()
    with (folder / "stderr.txt").open("w", encoding="utf-8") as log:
        words = [sys.executable, str(Path(__file__).resolve()), "--inside", str(todo)]
        subprocess.run(words, cwd=folder, env=environment, check=True, stdout=log, stderr=log)
    seconds = time.perf_counter() - start
    done.write_text(json.dumps({"key": key, "seconds": seconds}), encoding="utf-8")
    return {"seconds": seconds, "record": dict(read_folder(folder))}


def run_commands(todo: Path) -> None:
    """Run commands of layercut in this process; the standard output and exit status of number N are in ``N.out``."""
    import layercut

    assert Path(layercut.__file__).is_relative_to(os.environ["PYTHONPATH"]), layercut.__file__
    import shlex

    statuses: list[Any] = []
    for number, command in enumerate(json.loads(todo.read_text(encoding="utf-8"))):
        print(f"$ layercut {command}", file=sys.stderr, flush=True)
        sys.argv = ["layercut", *shlex.split(command)]
        with contextlib.redirect_stdout(io.StringIO()) as output:
            try:
                runpy.run_module("layercut", run_name="__main__", alter_sys=True)
                statuses.append(0)
            except SystemExit as end:
                statuses.append(end.code or 0)
            except Exception as error:  # a crash is a difference, and the next command runs
                statuses.append(f"{type(error).__name__}: {error}")
        Path(f"{number}.out").write_text(output.getvalue(), encoding="utf-8")
    Path("status.json").write_text(json.dumps(statuses), encoding="utf-8")


def hash_inputs(folder: Path) -> str:
    """One hash of all input files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


# Reading


def read_folder(folder: Path) -> Iterator[tuple[str, Any]]:
    """Names and values of all that a user relies on in the folder of a case."""
    yield from ((f"status {at}", code) for at, code in enumerate(json.loads((folder / "status.json").read_text())))
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        place = str(path.relative_to(folder))
        if path.name == "plan.json" or path.parent.name == "plans":
            yield from read_plan(place, json.loads(path.read_text(encoding="utf-8")))
        elif path.name in ("metrics.json", "result.json") or is_json_output(path):
            yield from number_equals(read_rows(place, json.loads(path.read_text(encoding="utf-8"))))
        elif path.suffix == ".jsonl":
            yield from number_equals(read_lines(place, path))
        elif path.suffix == ".safetensors":
            yield from ((f"{place} {name}", f"weight {digest}") for name, digest in hash_safetensors(path))
        elif path.suffix == ".gguf":
            yield from ((f"{place} {name}", digest) for name, digest in hash_gguf(path))
        elif path.name == "config.json":
            yield from flatten(place, json.loads(path.read_text(encoding="utf-8")))


def is_json_output(path: Path) -> bool:
    """True for the standard output of a command with ``--json``."""
    return path.suffix == ".out" and path.read_text(encoding="utf-8").startswith("{")


def read_plan(place: str, plan: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a plan removes, the scores that chose it, and the items that chose or healed."""
    channels = plan.get("channels") or {}
    yield from flatten(place, {name: plan.get(name) for name in ("num_layers", "removed", "kept")})
    yield from flatten(f"{place} channels", {name: channels.get(name) for name in ("field", "num_kept", "kept")})
    scores = plan.get("scores") or {}
    named = {name: scores.get(name) for name in ("importance", "uncut", "value", "rounds")}
    yield from flatten(f"{place} scores", named)
    for number, record in enumerate([scores, *(plan.get("healing") or ())]):
        hashes = {task: used["hash"] for task, used in (record.get("selection_items") or {}).items()}
        yield from flatten(f"{place} items {number}", hashes)


def read_rows(place: str, document: Any) -> Iterator[tuple[str, Any]]:
    """Rows of scores anywhere in a JSON document, and what was decided of named plans."""
    if isinstance(document, list):
        for entry in document:
            yield from read_rows(place, entry)
    elif isinstance(document, dict):
        said = {name: document[name] for name in LABELS if isinstance(document.get(name), str | int | float)}
        label = " ".join([place, *(f"{name}={value}" for name, value in said.items())])
        is_row = any(name in document for name in ROW_NAMES)
        for name in ROW_FIELDS if is_row else DECISIONS:
            if name in document and (is_row or not isinstance(document[name], dict)):
                yield from flatten(f"{label} {name}", document[name])
        for name, entry in () if is_row else document.items():
            if isinstance(entry, dict | list) and name not in ("speed", "served", "size", "settings", "healing"):
                yield from read_rows(label, entry)


def read_lines(place: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Answers and scores of items, or losses of a training, from a file with one JSON object a line."""
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        key = entry.get("key") or entry
        removed = {name: key[name] for name in ("removed", "channels") if key.get(name)}
        label = entry.get("id", f"step {entry.get('step')}")
        for name in ITEM_FIELDS if "id" in entry else LOSSES:
            if name in entry:
                yield from flatten(f"{place} {label} without {removed} {name}", entry[name])


def flatten(label: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The numbers and texts in a JSON value, each with its place."""
    if isinstance(value, dict | list):
        for name, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flatten(f"{label}.{name}", entry)
    else:
        yield label, value


def number_equals(entries: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The same, with a number behind the second and later ones of a name."""
    seen: dict[str, int] = {}
    for name, value in entries:
        seen[name] = seen.get(name, 0) + 1
        yield (name if seen[name] == 1 else f"{name} #{seen[name]}"), value


def hash_safetensors(path: Path) -> Iterator[tuple[str, str]]:
    """Names of tensors with dtype, shape and a hash of the bytes."""
    import torch
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name).contiguous()
            digest = hashlib.sha256(tensor.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]
            yield name, f"{tensor.dtype} {list(tensor.shape)} {digest}"


def hash_gguf(path: Path) -> Iterator[tuple[str, str]]:
    """Names of tensors and metadata with a hash of each."""
    import gguf

    reader = gguf.GGUFReader(path)
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.")):
            parts = b"".join(field.parts[at].tobytes() for at in field.data)
            yield f"metadata {field.name}", hashlib.sha256(parts).hexdigest()[:16]
    for tensor in reader.tensors:
        digest = hashlib.sha256(tensor.data.tobytes()).hexdigest()[:16]
        yield f"tensor {tensor.name}", f"{tensor.tensor_type.name} {list(tensor.shape)} {digest}"


# Comparing


def rename_command(command: str) -> str:
    """A command with the new names of its verb and flags."""
    words = [RENAMED.get(word, word) for word in command.split(" ")]
    return " ".join(word for word in words if word is not None)


def rename_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of the base under the new names, without what has ended."""
    renamed: dict[str, Any] = {}
    for name, value in record.items():
        new = name
        for old, other in RENAMED.items():
            pattern = rf"(?<![\w-]){re.escape(old)}(?![\w-])"
            if other is None and re.search(pattern, new):
                break
            new = re.sub(pattern, other or "", new)
        else:
            renamed[new] = value
    return renamed


def compare_records(
    wanted: Mapping[str, Any], record: Mapping[str, Any], base: Path | None = None, folder: Path | None = None
) -> list[str]:
    """What differs: one line for each value that is missing or another one.

    Of weights whose bytes differ, the tensors in the folders are compared.
    """
    differences = []
    for name, value in wanted.items():
        if name not in record:
            differences.append(f"{name}: base {value!r:.80}, now missing")
        elif not is_equal(value, record[name]):
            far = compare_weights(name, base, folder) if str(value).startswith("weight ") else "other value"
            if far:
                differences.append(f"{name}: base {value!r:.80}, now {record[name]!r:.80} ({far})")
    return differences


def is_equal(wanted: Any, value: Any) -> bool:
    """Equal; numbers that are not whole within TOLERANCE, of numbers above 1 relative."""
    numbers = isinstance(wanted, int | float) and isinstance(value, int | float)
    if numbers and not isinstance(wanted, bool) and not isinstance(value, bool):
        is_whole = isinstance(wanted, int) and isinstance(value, int)
        return wanted == value or (not is_whole and abs(wanted - value) <= TOLERANCE * max(1.0, abs(wanted)))
    return type(wanted) is type(value) and bool(wanted == value)


def compare_weights(name: str, base: Path | None, folder: Path | None) -> str:
    """How far two tensors are apart; empty where each number is within rounding of its dtype, or TOLERANCE of the
    largest.
    """
    if base is None or folder is None:
        return "other bytes"
    import torch
    from safetensors import safe_open

    place, _, tensor = name.rpartition(" ")
    pair = []
    for root, file in ((base, place), (folder, place)):
        if not (root / file).exists():
            return "other bytes"
        with safe_open(root / file, framework="pt") as opened:
            pair.append(opened.get_tensor(tensor))
    wanted, value = pair
    if wanted.dtype != value.dtype or wanted.shape != value.shape:
        return "another dtype or shape"
    if not wanted.dtype.is_floating_point:
        return "other numbers"
    rounding = 2 * torch.finfo(wanted.dtype).eps
    wanted, value = wanted.double(), value.double()
    apart = (wanted - value).abs()
    allowed = rounding * wanted.abs() + TOLERANCE * wanted.abs().max()
    is_near = bool((apart <= allowed).all())
    return "" if is_near else f"by up to {float(apart.max()):.2g} of {float(wanted.abs().max()):.2g}"


if __name__ == "__main__":
    main()
