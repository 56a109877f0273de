"""What the search saves by ending answers that repeat themselves, and what it would get wrong, on the whole answers of
evaluations: python benchmarks/loops.py RUN [RUN ...] --task gsm8k --readout chain --data gsm8k

For each folder: answers, those at their length limit, those that ``ends_in_loop`` would have ended, how many of these
ended by themselves later or have other scores, and the tokens that would not have been written (by the share of
characters).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from layercut.engine.base import Completion
from layercut.evidence.degeneration import LOOPING, ends_in_loop
from layercut.runs.directory import RunFolder
from layercut.tasks import load_task
from layercut.tasks.grading import scores_of


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--task", default="gsm8k")
    parser.add_argument("--readout", default="chain")
    parser.add_argument("--data")
    asked = parser.parse_args()
    task = load_task(asked.task, data=asked.data)
    samples = {sample.id: sample for sample in task.samples("report", None)}
    print("| run | answers | at the limit | ended by it | of them ended later | score otherwise | tokens saved |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for path in asked.runs:
        records = RunFolder.open(path).records(asked.task, asked.readout)
        ended = later = other = 0
        saved = 0.0
        for record in records:
            text = record["completion"]
            end = next((end for end in range(LOOPING, len(text)) if ends_in_loop(text[:end])), None)
            if end is None:
                continue
            ended += 1
            later += record["finish_reason"] != "length"
            saved += record["num_new_tokens"] * (1 - end / len(text))
            looped = Completion(
                id=record["id"], text=text[:end], finish_reason="settled", num_prompt_tokens=0, num_new_tokens=0
            )
            (score,) = scores_of(task, asked.readout, [(samples[record["id"]], looped)])
            other += score.metrics != record["metrics"]
        limits = sum(record["finish_reason"] == "length" for record in records)
        share = saved / sum(record["num_new_tokens"] for record in records)
        print(f"| {path.name} | {len(records)} | {limits} | {ended} | {later} | {other} | {share:.0%} |")


if __name__ == "__main__":
    main()
