"""Ctrl-C, sent to a real process in the middle of its work: what is saved, how to go on, and exit 130."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from layercut.cli.main import _stopped
from tests.support.pruning import spare_model, written_file

ROOT = Path(__file__).parents[3]


def interrupted(*arguments: object, once: Path | None = None, presses: int = 1) -> tuple[int, str]:
    """Start ``layercut``, press Ctrl-C once the file holds two lines (or 40 tokens are written); exit code, stderr."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # a test run may have it ignored
    code += "from layercut.progress import activity; activity.EVERY = 0.2; from layercut.cli.main import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr is not None
        heard: list[str] = []
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and process.poll() is None:
            if once is not None and once.is_file() and once.read_bytes().count(b"\n") >= 2:
                break
            if once is None:
                heard.append(process.stderr.readline())
                if "tokens written" in heard[-1]:
                    break
            time.sleep(0.01)
        for _ in range(presses):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3 if presses > 1 else 0)
        heard.append(process.stderr.read())
        process.wait(60)
        return process.returncode, "".join(heard)


def test_answers_are_counted_and_the_same_command_goes_on(layercut, tiny, tmp_path):
    out = tmp_path / "run"
    command = ("eval", tiny, "--tasks", "copy", "--readouts", "short", "--limit", 400, "--batch-size", 2)
    samples = out / "samples" / "copy.short.jsonl"
    code, said = interrupted(*command, "--out", out, once=samples)
    begun = samples.read_bytes()
    saved = begun.count(b"\n")
    assert code == 130 and 0 < saved < 400
    assert said.splitlines()[-1].startswith(f"Stopped. {saved:,} answers are saved")
    assert "Traceback" not in said and "Aborted" not in said
    layercut.done(*command, "--out", out)
    whole = samples.read_bytes()
    assert whole.startswith(begun) and len({json.loads(line)["id"] for line in whole.splitlines()}) == 400


def test_ctrl_c_before_the_folder_is_opened_says_nothing_of_what_is_in_it():
    said = _stopped(KeyboardInterrupt())
    assert said == "Stopped. Nothing new was saved; run the same command again."


def test_a_second_ctrl_c_prints_no_traceback(tiny, tmp_path):
    out = tmp_path / "run"
    command = ("eval", tiny, "--tasks", "copy", "--readouts", "short", "--limit", 400, "--batch-size", 2)
    once = out / "samples" / "copy.short.jsonl"
    code, said = interrupted(*command, "--out", out, once=once, presses=3)
    assert code in (130, -signal.SIGINT) and "KeyboardInterrupt" not in said and "Traceback" not in said, said


def test_a_limit_on_the_size_of_files_is_one_line(tiny, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = f"ulimit -f 16; exec {sys.executable} -m layercut eval {tiny} --tasks arithmetic --limit 200 "
    command += f"--readouts short --device cpu --out {tmp_path / 'run'}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "ulimit -f" in line or "File too large" in line


def test_without_a_run_folder_nothing_is_saved_and_a_long_answer_is_heard_of(tiny):
    code, said = interrupted("generate", tiny, "--prompt", "a b c", "--max-new-tokens", 500)
    assert code == 130
    assert "Answering with " in said and "tokens written" in said
    assert "Nothing new was saved" in said.splitlines()[-1]


def test_a_run_of_prune_says_what_is_saved(tmp_path):
    model = spare_model(tmp_path / "spare")
    file, out = written_file(tmp_path / "mine.jsonl", model), tmp_path / "run"
    journal = out / "searches" / "path" / "samples" / "traces.divergence.jsonl"
    command = ("prune", model, "--tasks", file, "--items", 40, "--keep", 0.5, "--device", "cpu", "--batch-size", 2)
    code, said = interrupted(*command, "--out", out, once=journal)
    assert code == 130, said
    last = said.splitlines()[-1]
    assert last.startswith("Stopped. ") and "are saved" in last and "run the same command" in last
    assert "original: scoring selection items" in said, "heard of without a terminal"
