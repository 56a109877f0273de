"""Faults: damaged and hostile files, plans and arguments, kill -9, and disks that are full or read-only.

    python benchmarks/faults.py            # some minutes; full disks need root, and are left out without
    python benchmarks/faults.py --only kill --show

A fault is held if the command ends by itself with one line of error (exit 1 or 2) or does its work (exit 0), writes
no traceback and nothing raw to the terminal, and stays within its time and memory. After a kill or a full disk, files
must end at whole lines, and the same command must end with the bytes of a run that was left alone. Prints what was
tried, held and failed for each door; exit 1 if any failed.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "COLUMNS": "120"}
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # processes are forked

SECONDS = 120.0
GROWTH = 3 * 2**30
"""Bytes that one fault may add to the largest memory of the process."""
HOSTILE = ("\x1b]0;owned\x07", "\x1b[2J", r"\[/x]", "[/x]", "[bold]", "<script>alert(1)</script>", "a\nb", "x" * 300)
DEEP = "[" * 100_000 + "]" * 100_000
Fault = tuple[str, Callable[[], str]]
"""A name, and what tries it: gives back what went wrong, or nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="doors, separated by commas", metavar="DOOR,DOOR")
    parser.add_argument("--show", action="store_true", help="print what each fault said")
    asked = parser.parse_args()
    doors = {"data": data_faults, "plan": plan_faults, "run folder": run_folder_faults, "arguments": argument_faults}
    doors |= {"kill": kill_faults, "disk": disk_faults}
    tried, failed = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        work = Path(name)
        with quiet():
            prepare(work)
        for door, faults in doors.items():
            if asked.only is None or door in asked.only.split(","):
                for fault, attempt in faults(work):
                    tried[door] += 1
                    wrong = attempt()
                    if wrong:
                        failed[door] += 1
                        print(f"FAILED  {door}: {fault}: {wrong[:600]!r}", flush=True)
                    elif asked.show:
                        print(f"held    {door}: {fault}: {said[-1][:200]!r}", flush=True)
                held = tried[door] - failed[door]
                print(f"{door}: tried {tried[door]}, held {held}, failed {failed[door]}", flush=True)
    whole, bad = sum(tried.values()), sum(failed.values())
    print(f"all: tried {whole}, held {whole - bad}, failed {bad}")
    sys.exit(1 if bad else 0)


SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["torch", "transformers", "peft", "trl", "scipy.stats", "layercut.cli.main"])
"""Forks processes that have imported what takes long, and run nothing yet."""
said = [""]
"""What the command line said last, on stderr."""


def layercut(*arguments: object, must_fail: bool = True) -> str:
    """Run a command in this process; what went wrong."""
    from layercut.cli.main import main as command_line

    out, err = io.StringIO(), io.StringIO()
    before, began, code = memory(), time.monotonic(), 0
    argv, sys.argv = sys.argv, ["layercut", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            command_line()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        sys.argv = argv
    said.append(err.getvalue())
    seconds, grown = time.monotonic() - began, memory() - before
    text = out.getvalue() + err.getvalue()
    errors = [line for line in err.getvalue().splitlines() if line.startswith("error:")]
    if "Traceback" in text:
        return f"a traceback: {text[-500:]}"
    if code not in ((1, 2) if must_fail else (0, 1, 2)):
        return f"exit {code}, {text[-300:]}"
    if code == 1 and len(errors) != 1 and "failed" not in text:
        return f"{len(errors)} lines of error: {err.getvalue()[-400:]}"
    if any(len(line) > 1500 for line in errors):
        return f"a line of error of {max(map(len, errors))} characters"
    if raw := [symbol for symbol in text if symbol not in "\n\t" and (symbol < " " or "\x7f" <= symbol <= "\x9f")]:
        return f"{raw[:3]} raw on the terminal"
    if seconds > SECONDS:
        return f"{seconds:.0f} s"
    return f"{grown >> 20} MiB more memory" if grown > GROWTH else ""


def memory() -> int:
    """The largest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def study_of(work: Path, **change: Any) -> dict[str, Any]:
    data: dict[str, Any] = {"model": str(work / "tiny"), "dtype": "float32", "device": "cpu", "batch_size": 4}
    data |= {"out": str(work / "runs" / "x"), "plans": {"last": "reverse:1"}}
    data |= {"tasks": [{"task": "arithmetic", "limit": 12, "readouts": ["rank", "short"]}]}
    return {key: value for key, value in (data | change).items() if value is not None}


def prepare(work: Path) -> None:
    """A tiny model, a study of it, and that study finished."""
    from tests.support.tiny import save_tiny

    save_tiny("llama", work / "tiny")
    (work / "good.yaml").write_text(yaml.safe_dump(study_of(work)))
    wrong = layercut("run", work / "good.yaml", must_fail=False)
    assert not wrong and (work / "runs" / "x" / "report.md").is_file(), (wrong, said[-1])
    shutil.copytree(work / "runs" / "x", work / "finished" / "x")


def broken_files(good: list[dict[str, Any]], field: str) -> Iterator[tuple[str, bytes, bool]]:
    """Name, content and whether it must be refused, of files that should hold rows such as ``good``."""
    lines = [json.dumps(row) for row in good]
    text = "\n".join(lines).encode() + b"\n"
    yield "empty.jsonl", b"", True
    yield "blank.jsonl", b"\n\n \n", True
    yield "binary.jsonl", bytes(range(256)) * 40, True
    yield "utf16.jsonl", text.decode().encode("utf-16"), True
    yield "torn.jsonl", text[:-9], True
    yield "zeros.jsonl", text + bytes(500), True
    yield "deep.jsonl", text + DEEP.encode() + b"\n", True
    yield "deep-object.jsonl", b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"\n", True
    yield "deeper.jsonl", b'{"a":' * 300 + b"1" + b"}" * 300 + b"\n", True
    for name, row in {"list": "[1]", "number": "7", "null": "null", "text": '"x"', "true": "true"}.items():
        yield f"{name}-row.jsonl", text + row.encode() + b"\n", True
    for name, value in {"number": 3, "list": [1], "object": {"a": 1}, "null": None, "empty": "", "blank": " "}.items():
        row = json.dumps(good[0] | {field: value})
        yield f"{name}-field.jsonl", row.encode() + b"\n", value != [1]
    yield "no-field.jsonl", b'{"other": "x"}\n', True
    yield "half-pair.jsonl", json.dumps(good[0] | {field: "\ud83d"}).encode() + b"\n", True
    yield "long-number.jsonl", b'{"a": ' + b"9" * 10_000 + b"}\n", True
    yield "long-line.jsonl", json.dumps(good[0] | {"pad": "x" * (2**26 + 9)}).encode() + b"\n", True
    yield "torn.jsonl.gz", gzip.compress(text * 500)[:-100], True
    yield "plain.jsonl.gz", text, True
    yield "bomb.jsonl.gz", BOMB, True
    yield "bomb.json.gz", b"[" + BOMB, True
    yield "bomb.csv.gz", BOMB, True
    yield "object.json", b'{"rows": []}', True
    yield "empty.json", b"[]", True
    yield "torn.json", b"[" + lines[0].encode(), True
    yield "deep.json", DEEP.encode(), True
    yield "numbers.json", b"[1, 2]", True
    yield "empty.csv", b"", True
    yield "head.csv", f"{field},answer\n".encode(), True
    yield "cells.csv", f"{field}\na,b,c\n".encode(), True
    yield "quote.csv", f'{field}\n"a\n'.encode(), True
    yield "bytes.csv", f"{field}\n".encode() + b"\xff\xfe\n", True
    yield "none.parquet", text, True
    yield "none.xlsx", text, True
    yield "one-row.jsonl", lines[0].encode() + b"\n", False
    yield "two-rows.jsonl", "\n".join(lines[:2]).encode() + b"\n", False
    yield "one-row.json", f"[{lines[0]}]".encode(), False
    for number, hostile in enumerate(HOSTILE):
        yield f"hostile-{number}.jsonl", json.dumps(good[0] | {field: hostile}).encode() + b"\n", False
        yield f"hostile-name-{number}.jsonl", json.dumps({hostile: 1}).encode() + b"\n", True


BOMB = gzip.compress(b"1" * 2**20, 1) * 1024
"""1 GiB in one line."""


def file_faults(work: Path, door: str, good: list[dict[str, Any]], field: str, command: Callable[[Path], list[Any]]):
    folder = work / "files" / door
    folder.mkdir(parents=True)
    for number, (name, content, must_fail) in enumerate(broken_files(good, field)):

        def attempt(number: int = number, name: str = name, content: bytes = content, fails: bool = must_fail) -> str:
            file = folder / f"{number}-{name}"
            file.write_bytes(content)
            try:
                return layercut(*command(file), must_fail=fails)
            finally:
                file.unlink()

        yield name, attempt
    for name in ("missing.jsonl", "folder.jsonl", "fifo.jsonl", "loop.jsonl", "dangling.jsonl"):

        def special(name: str = name) -> str:
            file = folder / name
            if name.startswith("folder"):
                file.mkdir()
            elif name.startswith("fifo"):
                os.mkfifo(file)
            elif not name.startswith("missing"):
                file.symlink_to(file if name.startswith("loop") else folder / "nowhere")
            return layercut(*command(file))

        yield name, special


def data_faults(work: Path) -> Iterator[Fault]:
    good = [{"question": f"What is {i} + 1?", "answer": f"It is so. #### {i + 1}"} for i in range(4)]

    def command(file: Path) -> list[Any]:
        return ["eval", work / "tiny", "--tasks", "gsm8k", "--data", f"gsm8k={file}", "--limit", 2, "--dry-run"]

    yield from file_faults(work, "data", good, "question", command)


def plan_faults(work: Path) -> Iterator[Fault]:
    good = {"format_version": 1, "num_layers": 6, "removed": [5], "criterion": "reverse", "model": None, "scores": {}}
    good |= {"model_hash": None, "settings": {}, "kept": [0, 1, 2, 3, 4]}
    bad = {
        "removed": (["2"], [True], [1.5], [None], [[1]], [-1], [6], [10**30], [1, 1], [*range(6)], "1", 1, None, {}),
        "num_layers": (True, "6", None, 0, -6, 5, 10**9, 1e300, [6], {}),
        "format_version": (0, 2, "1", None, [1]),
        "criterion": (1, None, [], {}, "\ud83d"),
        "model": (1, [], {}, True),
        "model_hash": (1, [], {}),
        "settings": (1, None, [], "x"),
        "scores": (1, None, [], "x"),
        "earlier": (1, "x", [1], [{}], [{"num_layers": 6, "removed": ["2"]}]),
    }
    texts = {f"{field} {value!r:.30}": json.dumps(good | {field: value}) for field in bad for value in bad[field]}
    texts |= {"empty": "", "deep": DEEP, "list": "[]", "null": "null", "torn": json.dumps(good)[:-5]}
    texts |= {"deep settings": json.dumps(good)[:-1] + ', "settings": ' + "[" * 500 + "]" * 500 + "}"}
    texts |= {f"hostile {field}": json.dumps(good | {field: HOSTILE[0] * 9}) for field in ("removed", "num_layers")}
    file = work / "plan.json"
    for name, text in texts.items():

        def attempt(text: str = text) -> str:
            file.write_text(text)
            return layercut("cut", work / "tiny", "--remove", file, "--out", work / "cut", "--dry-run")

        yield name, attempt
    lists = ("0-999999999999", "9" * 5000, "3-1", "1,1", "-1", "6", "0-5", ",", " ", "1;2", "reverse:99", "reverse:0")
    for spec in (*lists, f"reverse:{'9' * 5000}", "../x:y:1", "x" * 300, "x" * 300 + ".json", "/", "[/x]"):
        yield f"--remove {spec[:20]}", lambda spec=spec: layercut("cut", work / "tiny", f"--remove={spec}", "--dry-run")


def run_folder_faults(work: Path) -> Iterator[Fault]:
    """A finished study whose files were damaged, read by every verb that reads runs."""
    run = work / "damaged" / "x"
    contents = {"empty": b"", "zeros": bytes(300), "list": b"[]", "null": b"null", "object": b"{}"}
    contents |= {"deep": DEEP.encode(), "binary": b"\xff\xfe\x00"}
    contents["hostile"] = json.dumps({"format_version": HOSTILE[0], HOSTILE[1]: HOSTILE[2]}).encode()
    files = ("uncut/metrics.json", "last/samples/arithmetic.rank.jsonl", "last/config.yaml", "notes.jsonl")
    verbs = {
        "report": ["report", run],
        "compare": ["compare", run / "uncut", run / "last"],
        "ls": ["ls", run.parent],
        "run": ["run", work / "damaged.yaml"],
    }
    (work / "damaged.yaml").write_text(yaml.safe_dump(study_of(work, out=str(run))))
    for file in files:
        for kind, content in contents.items():
            for verb, command in verbs.items():
                if verb in ("report", "run") and kind not in ("deep", "hostile"):
                    continue  # they draw pages, which takes most of the time

                def attempt(file: str = file, content: bytes = content, command: list[Any] = command) -> str:
                    shutil.rmtree(run.parent, ignore_errors=True)
                    shutil.copytree(work / "finished" / "x", run)
                    (run / file).write_bytes(content)
                    return layercut(*command, must_fail=False)

                yield f"{verb} with {kind} {file}", attempt


def argument_faults(work: Path) -> Iterator[Fault]:
    tiny = work / "tiny"
    lists = (",", " ", ",,", " , ", "", "../x:y", "copy,copy,,nothing", "copy:", ":copy", "x" * 300, "[/x]", "copy:-1")
    for tasks in lists:
        yield f"--tasks {tasks[:20]!r}", lambda tasks=tasks: layercut("eval", tiny, f"--tasks={tasks}", "--dry-run")
    for name in ("../x:y", "..x:y", "x:y", "os:path", ":", "", "[/x]", r"\[/x]", "x" * 300):
        flags = ["--remove", "1 layer", "--out", work / "runs" / "arguments"]
        select = ["select", tiny, f"--criterion={name}", *flags]
        yield f"--criterion {name[:20]!r}", lambda select=select: layercut(*select)
    digits = "9" * 5000
    chosen = ["select", tiny, "--criterion", "reverse", "--remove", "1 layer", "--out", work / "runs" / "digits"]
    for flag in (f"--protect=first:{digits}", f"--protect={digits}", f"--set=token={digits}", f"--remove={digits}"):
        yield f"{flag[:20]} of 5000 digits", lambda flag=flag: layercut(*chosen, flag)
    for number, hostile in enumerate(HOSTILE):
        for arguments in (["run", hostile], ["eval", hostile, "--tasks", "copy"], ["cut", tiny, "--remove", hostile]):
            yield f"{arguments[0]} with hostile text {number}", lambda arguments=arguments: layercut(*arguments)
        yield f"a verb of hostile text {number}", lambda hostile=hostile: layercut(hostile)
        yield f"a flag of hostile text {number}", lambda hostile=hostile: layercut("eval", tiny, f"--{hostile}")


def verb_commands(work: Path) -> dict[str, list[Any]]:
    """For each of the eight verbs that write for long, a command of a few seconds without its folder."""
    from tests.support.pruning import choice_file, spare_model, written_file

    model = spare_model(work / "spare")
    rows = choice_file(work / "mine.jsonl", model)
    written = written_file(work / "written.jsonl", model)
    (work / "prompts.txt").write_text("".join(f"say {number}\n" for number in range(24)))
    study = study_of(work, criteria=[{"criterion": "block_influence", "calibration": {"num_texts": 8}}], depths=[1])
    seam = {"name": "seam", "method": "seam", "prompts": "task:copy", "limit": 24, "responses": "original"}
    study |= {"healing": [{**seam, "plans": ["last"]}]}
    (work / "whole.yaml").write_text(yaml.safe_dump(study))
    with quiet():
        assert not layercut("cut", work / "tiny", "--remove", "2,4", "--out", work / "thin", must_fail=False), said[-1]
    few = ["--device", "cpu", "--batch-size", 4]
    words = ["--prompts", work / "prompts.txt", "--max-new-tokens", 6]
    train = ["--rank", 2, "--max-steps", 12, "--save-every", 3, "--train-batch", 4, "--warmup-steps", 1]
    layers = ["--units", "layer", "--smaller", "29%"]
    return {
        "prune": ["prune", model, "--tasks", rows, "--items", 40, "--keep", 0.6, *layers, "--heal", "seam"],
        "select": ["select", model, "--criterion", "task_accuracy", "--objective", rows, "--remove", "2 layers", *few],
        "sweep": ["sweep", model, "--objective", rows, "--limit", 12, *few],
        "eval": ["eval", work / "tiny", "--remove", "2,4", "--tasks", "arithmetic,copy", "--limit", 12, *few],
        "generate": ["generate", work / "tiny", *words, *few],
        "heal": ["heal", work / "thin", "--teacher", work / "tiny", *words, "--keep-unfinished", *train],
        "draft": ["draft", model, "--tasks", written, "--items", 8, *few],
        "run": ["run", work / "whole.yaml"],
    }


def tree(folder: Path) -> dict[str, Any]:
    """All that a run found, without times, versions of the machine, and the paths of its own folder."""
    found: dict[str, Any] = {}
    for file in sorted(folder.rglob("*")):
        place = str(file.relative_to(folder))
        if file.suffix == ".safetensors" and "training" not in file.parts:
            found[place] = hashlib.sha256(file.read_bytes()).hexdigest()
        elif file.suffix == ".jsonl" and file.parent.name == "samples":
            found[place] = sorted(file.read_text().splitlines())
        elif file.name in RESULTS:
            found[place] = untimed(json.loads(file.read_text().replace(str(folder), "OUT")))
    return found


RESULTS = ("metrics.json", "plan.json", "result.json", "sweep.json", "diagnose.json", "draft.json")
TIMED = ("seconds", "speed", "served", "command", "reused", "fastest", "memory_bytes")


def untimed(value: Any) -> Any:
    """A JSON value without what was timed."""
    if isinstance(value, dict):
        return {name: untimed(entry) for name, entry in value.items() if name not in TIMED}
    return [untimed(entry) for entry in value] if isinstance(value, list) else value


def forked(command: list[Any], out: Path, die_at: int = 0) -> tuple[int, str, int]:
    """Run a command in a process of its own; its exit code, what was wrong, and how often it wrote to ``out``.

    A place is a file that is opened for writing, renamed, removed or synced, or a folder that is made. ``die_at``: the
    process is killed in front of this one.
    """
    reading, writing = SERVER.Pipe(duplex=False)
    child = SERVER.Process(target=count_writes, args=(command, out, die_at, writing))
    child.start()
    writing.close()
    try:
        wrong, places, last = reading.recv()
    except EOFError:
        wrong, places, last = "", 0, ""
    child.join()
    said.append(last)
    return child.exitcode or 0, wrong, places


def count_writes(command: list[Any], out: Path, die_at: int, answer: Any) -> None:
    """The process of ``forked``."""
    from layercut.drafting import job

    written_twice, places, sync = job.write_twice, [0], os.fsync

    def count() -> None:
        places[0] += 1
        if places[0] == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
        if (writes or event in ("os.rename", "os.mkdir", "os.remove")) and str(out) in str(arguments[0]):
            count()

    def counted_sync(file: int) -> None:
        count()
        sync(file)

    sys.addaudithook(watch)
    os.fsync = counted_sync
    job.measure_times = fixed_times
    job.write_twice = lambda *given: (answer._replace(plain=2.0, drafted=1.0) for answer in written_twice(*given))
    with quiet():
        wrong = layercut(*command, "--out", out, must_fail=False)
    answer.send((wrong, places[0], said[-1][-600:]))


def fixed_times(loaded: Any, plans: Any, profile: Any, window: int, *_: Any) -> Any:
    """Times of steps that are the same in every run of ``draft``."""
    from layercut.drafting.search import StepTimes
    from layercut.pruning.speed import TimeParts

    parts = TimeParts(fixed=0.0, layer=1.0, channels=0.0)
    return StepTimes(prompt=16, check=(1.0,) * (window + 1), step=parts, read=parts)


def kill_faults(work: Path) -> Iterator[Fault]:
    """kill -9 at twenty places of each verb; the same command then ends with what a run that was left alone found."""
    for verb, command in verb_commands(work).items():
        whole, twin = work / "whole" / verb, work / "killed" / verb
        status, wrong, places = forked(command, whole)
        if status or wrong or "error: " in said[-1]:
            yield f"{verb}, left alone", lambda text=wrong or said[-1] or f"exit {status}": text
            continue
        places = min(places, forked(command, twin)[2])  # the first run may fill a cache
        yield f"{verb}, left alone twice", lambda whole=whole, twin=twin: differing(tree(whole), tree(twin))
        for number in range(KILLS):
            place = 1 + number * int(0.97 * (places - 1)) // (KILLS - 1)  # a run may write a file less

            def attempt(command: list[Any] = command, whole: Path = whole, place: int = place) -> str:
                out = work / "killed" / whole.name
                shutil.rmtree(out, ignore_errors=True)
                status = forked(command, out, place)[0]
                if status != -signal.SIGKILL:
                    return f"exit {status} in place of a kill"
                status, wrong, _ = forked(command, out)
                return wrong or (f"exit {status}" if status else differing(tree(whole), tree(out)))

            yield f"{verb} at write {place} of {places}", attempt


KILLS = 20


def differing(whole: dict[str, Any], again: dict[str, Any]) -> str:
    """The first file that is not the same; nothing where all are."""
    names = [name for name in {**whole, **again} if whole.get(name) != again.get(name)]
    return f"other than run through: {', '.join(names[:3])}" if names or not whole else ""


def disk_faults(work: Path) -> Iterator[Fault]:
    """Every verb on a tmpfs that is too small, and with room again."""
    if os.geteuid() != 0:
        print("disk: left out, a small disk needs root")
        return
    for verb, command in verb_commands(work).items():
        whole = work / "roomy" / verb
        _, wrong, _ = forked(command, whole)
        if wrong or "error: " in said[-1]:
            yield f"{verb}, with room", lambda text=wrong or said[-1]: text
            continue
        used = sum(file.stat().st_size for file in whole.rglob("*") if file.is_file()) // 1024
        for kib in (8, used // 6 + 8, used // 2 + 8):
            yield f"{verb} on {kib} KiB", partial(on_disk, work, kib, partial(full_run, command, whole))
        yield f"{verb} on a read-only disk", partial(on_disk, work, 4000, partial(read_only_run, command))


def on_disk(work: Path, kib: int, attempt: Callable[[Path], str]) -> str:
    disk = work / "disk"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", disk], check=True)
    try:
        return attempt(disk)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def full_run(command: list[Any], whole: Path, disk: Path) -> str:
    out = disk / "x"
    _, wrong, _ = forked(command, out)
    if wrong:
        return wrong
    if (errors := said[-1].count("error: ")) and str(disk.name) not in said[-1]:
        return f"the disk is not named: {said[-1]}"
    for file in disk.rglob("*.jsonl"):
        if (text := file.read_text()) and not text.endswith("\n"):
            return f"{file.name} ends in the middle of a line"
    remount(disk, "size=400000k")
    status, wrong, _ = forked(command, out)
    if not errors:
        return "it did not fail"
    return wrong or (f"exit {status}" if status else differing(tree(whole), tree(out)))


def read_only_run(command: list[Any], disk: Path) -> str:
    remount(disk, "ro")
    _, wrong, _ = forked(command, disk / "x")
    remount(disk, "rw")
    return wrong or ("" if "error: " in said[-1] else "it did not fail")


if __name__ == "__main__":
    main()
