from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from layercut.engine.cost import (
    PASS_SECONDS,
    SLOWER,
    TRAINING,
    CostEstimate,
    Speed,
    Step,
    between,
    measured_speed,
    prompt_tokens,
)

SPEED = Speed("CPU", 1e11, 1e10)


def step(**more: object) -> Step:
    values: dict[str, object] = {"name": "answers", "items": 64, "parameters": 10**8, "prompt_tokens": 1000}
    return Step(**(values | {"new_tokens": (640, 6400)} | more))  # type: ignore[arg-type]


def test_the_least_time_is_that_of_the_arithmetic() -> None:
    low, high = step(new_tokens=(0, 0)).seconds(SPEED)
    passes = 2 * PASS_SECONDS / SLOWER  # 64 items in batches of 32
    assert low == pytest.approx(2 * 1e8 * 1000 / 1e11 + passes) and high == pytest.approx(4 * low)
    assert step(new_tokens=(0, 0), cost=TRAINING).seconds(SPEED)[0] == pytest.approx(3 * low)


def test_a_token_alone_takes_the_time_of_reading_the_weights() -> None:
    alone, together = (step(batch_size=size).seconds(SPEED)[0] for size in (1, 32))
    passes = (64 + 640) * PASS_SECONDS / SLOWER
    assert alone == pytest.approx(2 * 1e8 * 1000 / 1e11 + 640 * 4e8 / 1e10 + passes)
    assert together < alone / 5


def test_an_estimate_says_all_there_is_to_know(tmp_path: Path) -> None:
    wanted = CostEstimate(
        steps=(step(), step(name="training", items=1, unit="example", new_tokens=(0, 0), cost=TRAINING)),
        speed=SPEED,
        disk_bytes=4_000_000,
        stays_bytes=1_000_000,
        memory_bytes=800_000_000,
        folder=tmp_path / "not" / "yet",
    )
    text = "\n".join(wanted.lines())
    assert "64 items, about 1,000 tokens" in text
    assert "1 example, about 1,000" in text
    assert "time: " not in text and "at least" not in text, "the ends differ too much to say anything"
    assert "1.00 MB stays" in text and "memory: about 800 MB" in text
    assert "too little" not in text and text.endswith("nothing was written")
    data = json.loads(json.dumps(wanted.to_dict(), allow_nan=False))
    assert data["seconds"][0] < data["seconds"][1] and data["steps"][1]["items"] == 1
    assert wanted.free_bytes is not None and wanted.free_bytes <= shutil.disk_usage(tmp_path).total


def test_what_does_not_fit_is_said(tmp_path: Path) -> None:
    wanted = CostEstimate(steps=(step(),), speed=None, disk_bytes=10**18, memory_bytes=0, folder=tmp_path)
    assert any("too little" in line for line in wanted.lines()) and wanted.seconds is None


def test_a_range_is_shown_where_its_middle_is_right_within_a_factor_of_two(tmp_path: Path) -> None:
    narrow = step(prompt_tokens=10**6, new_tokens=(0, 0))
    wanted = CostEstimate(steps=(narrow,), speed=SPEED, disk_bytes=0, memory_bytes=0, folder=tmp_path)
    low, high = narrow.seconds(SPEED)
    assert high <= 4 * low + 1
    assert any(line.startswith("time: ") and "at least" not in line for line in wanted.lines())


def test_ranges_read_well() -> None:
    assert between(90, 90) == "1.5 min"
    assert between(0.1, 0.4) == "under 1 s"
    assert between(0.2, 4) == "up to 4 s"
    assert between(40, 150) == "40 s to 2.5 min"
    assert between(4000, 90_000) == "1.1 to 25 h"
    assert between(1, 100) == "1 s to 1.7 min"


def test_the_speed_of_this_machine_is_measured() -> None:
    found = measured_speed("cpu")
    assert found.device == "CPU" and found.products_per_second > 1e8 and found.bytes_per_second > 1e7
    assert found.value_bytes == 4 and measured_speed("cpu", "bfloat16").value_bytes == 2


def test_weights_of_half_the_bytes_are_read_in_half_the_time() -> None:
    step = Step(name="answers", items=1, prompt_tokens=0, new_tokens=(100, 100), parameters=10**9, batch_size=1)
    whole, half = (step.seconds(SPEED._replace(value_bytes=size))[0] for size in (4, 2))
    assert whole - half == pytest.approx(2 * 10**9 * 100 / SPEED.bytes_per_second)


def test_tokens_of_a_prompt_are_estimated_by_its_length() -> None:
    assert prompt_tokens(["a" * 40, "b" * 40]) == 20


def test_counting_loads_no_torch() -> None:
    code = "import sys, layercut.engine.cost; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
