"""Written answers of lm-eval's tasks, here and in lm-eval's own Hugging Face run: how many items differ.

    python benchmarks/lm_eval_equality.py lm-eval:gsm8k=data/gsm8k lm-eval:arc_challenge_chat=data/arc_challenge

Both sides run the same model in float32 and greedily, over the same local rows; lm-eval reads them with its own loader,
draws its own worked examples, and filters and grades by itself. An item differs if its text or one of its metrics does.

    python benchmarks/lm_eval_equality.py lm-eval:gsm8k:5=data/gsm8k --items 200 --kept runs/equality

That one takes hours on a CPU. With ``--kept`` the answers of both sides are kept as they come, and the same command
goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from layercut.engine.base import GenerationRequest
from layercut.engine.handle import ModelHandle
from layercut.runs.records import Journal
from layercut.settings import ModelSettings
from layercut.surgery.plan import CutPlan
from layercut.tasks import base_name_of_task, load_task
from layercut.tasks.data_files import read_local_data
from layercut.tasks.evaluate import evaluate_items

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests.support


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", metavar="TASK=FOLDER")
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--engine", default="shared")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--longest", type=int, help="tokens of an answer, in place of the task file's, on both sides")
    parser.add_argument("--kept", type=Path, metavar="DIR", help="where answers of both sides are kept")
    asked = parser.parse_args()
    settings = ModelSettings(model=asked.model, dtype="float32", device="cpu", engine=asked.engine)
    handle = ModelHandle(settings)
    print(f"{asked.model}, float32, CPU, greedy, {asked.engine} engine, load average {os.getloadavg()[0]:.1f}")
    for pair in asked.tasks:
        name, _, folder = pair.partition("=")
        kept = asked.kept and asked.kept / "-".join([*name.split(":"), handle.metadata.model_hash, str(asked.longest)])
        print(compared(handle, name, Path(folder), asked.items, asked.longest, kept), flush=True)


def compared(handle: Any, name: str, folder: Path, items: int, longest: int | None, kept: Path | None) -> str:
    """One line on a task."""
    task = load_task(name, data=str(folder), max_new_tokens=longest)
    samples = task.samples("report", items)
    began = time.process_time()
    plan = CutPlan(num_layers=handle.engine.num_layers)
    with Journal(kept / f"{items}.jsonl") if kept else nullcontext() as journal:
        records = evaluate_items(task, handle.engine, plan, limit=items, journal=journal).records
    ours = time.process_time() - began
    subject, last = samples[-1].data["subject"], samples[-1].data["item"].doc
    docs = subject.docs["test" if "test" in subject.docs else "validation"]
    limit = 1 + max(place for place in range(len(docs)) if docs[place] == last)
    began = time.process_time()
    theirs = logged(handle, name, subject, folder, limit, longest, kept)
    seconds = time.process_time() - began
    different = {"text": 0, "metrics": 0}
    missing = 0
    for sample, record in zip(samples, records, strict=True):
        request = task.request(sample, "chain")
        assert isinstance(request, GenerationRequest)
        own = [one for one in theirs if one["arguments"][0][0] == request.prompt]
        missing += not own
        different["text"] += any(one["resps"][0][0] != record["completion"] for one in own)
        found = {key: float(one[key]) for one in own for key in one["metrics"] if key in record["metrics"]}
        found |= {
            one["filter"]: float(one[key])
            for one in own
            for key in one["metrics"]
            if one["filter"] in record["metrics"]
        }
        assert not own or set(found) == set(record["metrics"]), "a metric that only one side has"
        different["metrics"] += found != record["metrics"]
    score = " ".join(f"{key} {sum(one['metrics'][key] for one in records) / len(records):.3f}" for key in found)
    return (
        f"{task.name}: {len(records)} items, {different['text']} texts and {different['metrics']} scores differ, "
        f"{missing} prompts are missing there; {score}; {ours:.0f} CPU s here, {seconds:.0f} there"
    )


def logged(
    handle: Any, name: str, subject: Any, folder: Path, limit: int, longest: int | None, kept: Path | None
) -> list[dict[str, Any]]:
    """What lm-eval logs of each item and filter."""
    from lm_eval.models.huggingface import HFLM

    from tests.support.harness import run_of_lm_eval, with_rows, write_rows

    loaded, bare, shots = handle.loaded, base_name_of_task(name), name.rpartition(":")[2]
    own = subject.task.config.dataset_name
    with tempfile.TemporaryDirectory() as scratch:
        rows = {
            split: [dict(row.fields) for row in part if row.fields.get("subject", own) == own]
            for split, part in read_local_data(str(folder)).splits.items()
        }
        place = write_rows(Path(scratch, "rows"), rows)
        changes: dict[str, Any] = {} if "train" in rows else {"training_split": None, "fewshot_split": None}
        if longest is not None:
            written = subject.task.config.generation_kwargs
            changes["generation_kwargs"] = {**written, "max_gen_toks": longest}
        changed = with_rows(bare, place, tuple(rows), Path(scratch, "cache"), **changes)
        model = HFLM(
            pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=8, max_length=loaded.context_length
        )
        shown: dict[str, Any] = {"num_fewshot": int(shots)} if shots.isdigit() else {}
        if kept:
            shown["use_cache"] = str(kept / "lm-eval")
        return list(run_of_lm_eval(model, [changed], limit=limit, **shown)["samples"][bare])


if __name__ == "__main__":
    main()
