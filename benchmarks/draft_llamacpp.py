"""Drafts in llama.cpp: the same answers with and without each draft file, by turns, in one process.

    python benchmarks/draft_llamacpp.py uncut-Q8_0.gguf thin-Q4_K_M.gguf uncut-Q2_K.gguf --task gsm8k --data DIR

Needs layercut[llama-cpp]. Prints for each draft and window: tokens accepted of those proposed, answers with the same
tokens, and the ratio of seconds of all answers without the draft to those with it, with a 95 % interval over answers.
One request at a time, greedy. The first answer warms caches up and is not counted.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import xllamacpp

from layercut.engine.handle import ModelHandle
from layercut.engine.llamacpp import LlamaCppEngine, ServerInProcess
from layercut.engine.rows import generation_row
from layercut.engine.stopping import stop_tokens
from layercut.evidence.paired import sums_ratio
from layercut.settings import ModelSettings
from layercut.tasks import load_task


def served(engine: LlamaCppEngine, file: Path, draft: Path | None, window: int) -> ServerInProcess:
    """llama.cpp with a file, and a draft that proposes as many tokens in every round."""
    parameters: Any = engine.parameters(file)
    if draft is not None:
        parameters.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]
        one = parameters.speculative.draft
        one.mparams.path = str(draft)
        one.n_max = one.n_min = window
        one.p_min = 0.0
        one.cpuparams.n_threads = one.cpuparams_batch.n_threads = parameters.cpuparams.n_threads
    return ServerInProcess(xllamacpp.Server(parameters), parameters.api_keys[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path)
    parser.add_argument("drafts", type=Path, nargs="+")
    parser.add_argument("--task", default="copy")
    parser.add_argument("--data", default="")
    parser.add_argument("--windows", default="2,4")
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    model = ModelHandle(ModelSettings(model=str(asked.target), engine="llama.cpp", batch_size=1, cache_gib=1.0))
    engine, reader = model.engine, model.weightless
    assert isinstance(engine, LlamaCppEngine)
    task = load_task(asked.task, data=asked.data or None, seed=asked.seed)
    samples = task.samples("report", asked.items + 1)
    prompts = [generation_row(reader, task.request(one, task.readouts[0])).prompt for one in samples]  # type: ignore[arg-type]
    ends = set(stop_tokens(reader.tokenizer, reader.generation_config))

    def write(server: ServerInProcess, prompt: tuple[int, ...]) -> tuple[list[int], float, dict[str, Any]]:
        began = time.perf_counter()
        found = server.ask(prompt, n_predict=asked.tokens, temperature=0.0, cache_prompt=False)
        took = time.perf_counter() - began
        tokens = found["tokens"]
        return [one for one in tokens if one not in ends], took, found.get("timings", {})

    plain = served(engine, asked.target, None, 0)
    print(
        "| draft | bytes | window | accepted | same tokens | times as fast |\n|---|---:|---:|---:|---:|---|", flush=True
    )
    for draft in asked.drafts:
        for window in map(int, asked.windows.split(",")):
            drafted, rows = served(engine, asked.target, draft, window), []
            for number, prompt in enumerate(prompts):
                order = (plain, drafted) if number % 2 else (drafted, plain)
                found = {one is drafted: write(one, prompt) for one in order}
                rows += [found] if number else []
            proposed = sum(one[True][2].get("draft_n", 0) for one in rows)
            accepted = sum(one[True][2].get("draft_n_accepted", 0) for one in rows)
            same = sum(one[True][0] == one[False][0] for one in rows)
            found = sums_ratio(*(np.array([one[side][1] for one in rows]) for side in (False, True)), asked.seed)
            ends_words = "" if found.low is None else f" [{found.low:.2f}, {found.high:.2f}]"
            print(
                f"| {draft.name} | {draft.stat().st_size / 1e6:,.0f} MB | {window} | {accepted / max(proposed, 1):.2f} "
                f"| {same} of {len(rows)} | x {found.value:.2f}{ends_words} |",
                flush=True,
            )
            del drafted


if __name__ == "__main__":
    main()
