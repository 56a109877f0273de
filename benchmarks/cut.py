"""What a cut of a big checkpoint costs beside ``cp`` of the bytes that stay: speed, and peak memory.

    python benchmarks/cut.py --gb 20 --folder /where/there/is/room

A checkpoint of random bfloat16 bits is written in shards, layers in its middle are cut with ``--no-verify``, and
``cp`` copies as many bytes of the same shards before, between and after. Before each the shards are dropped from the
page cache (``posix_fadvise``) and ten seconds pass: a virtual machine hands memory that was freed back to its host
meanwhile, and takes it again page by page, which may double the CPU time of a copy. Each counts until its files are on
the disk (``fsync``). The cut is timed twice: its work alone, and the whole process, start and imports (torch) included,
which take the same few seconds whatever the size. All files are deleted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

SETTLE = 10.0
"""Seconds before each copy."""
CUT = """
import sys, time
from pathlib import Path
from transformers import CONFIG_MAPPING
CONFIG_MAPPING["llama"]  # imports torch
from layercut.selection.specs import plan_of
from layercut.surgery.checkpoint import cut_checkpoint
from layercut.engine.handle import ModelHandle
from layercut.settings import ModelSettings
source, remove, out, shard = sys.argv[1:]
began, began_cpu = time.perf_counter(), time.process_time()
handle = ModelHandle(ModelSettings(model=source))
plan = plan_of(handle, remove, 0)
done = cut_checkpoint(handle.source.path, plan, Path(out), max_shard_bytes=int(shard))
print(done.bytes_after, time.perf_counter() - began, time.process_time() - began_cpu)
"""


class Measured(NamedTuple):
    """Bytes of a copy or cut, seconds until its files were on the disk, and seconds of its processor time."""

    num_bytes: int
    seconds: float
    cpu: float

    def show(self, name: str) -> None:
        speed = self.num_bytes / self.seconds / 1e9
        print(
            f"{name:26} {self.num_bytes / 1e9:7.2f} GB {self.seconds:7.1f} s {speed:6.2f} GB/s  CPU {self.cpu:5.1f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=4.0, help="size of the uncut checkpoint")
    parser.add_argument("--shard-gb", type=float, default=1.0, help="largest shard, of both checkpoints")
    parser.add_argument("--share", type=float, default=0.2, help="layers that go, in the middle")
    parser.add_argument("--rounds", type=int, default=2, help="cuts, each between two copies")
    parser.add_argument("--folder", type=Path, help="where to work; the folder for temporary files if left out")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder, prefix="layercut-bench-") as folder:
        compare_speeds(asked, Path(folder))


def compare_speeds(asked: argparse.Namespace, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < 2.1e9 * asked.gb:
        raise SystemExit(f"{folder} has {free / 1e9:.0f} GB free; {2.1 * asked.gb:.0f} GB are needed.")
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # the peak of a child is at least its parent's
        num_layers = pool.submit(write_checkpoint, folder / "uncut", asked.gb * 1e9, asked.shard_gb * 1e9).result()
    files = sorted((folder / "uncut").glob("*.safetensors"))
    total = sum(file.stat().st_size for file in files)
    print(f"checkpoint: {total / 1e9:.2f} GB, {num_layers} layers, {len(files)} shards, Linux {os.uname().release}")
    num_cut = max(1, round(asked.share * num_layers))
    first = (num_layers - num_cut) // 2
    remove = f"{first}-{first + num_cut - 1}"
    copies, cuts, processes, peak = [], [], [], 0
    for number in range(asked.rounds + 1):
        copies.append(time_copy(files, (1 - num_cut / num_layers) * total, folder / "copy"))
        copies[-1].show("cp")
        if number < asked.rounds:
            cut, process, rss = time_cut(folder / "uncut", remove, folder / "cut", files, int(asked.shard_gb * 1e9))
            cut.show(f"cut {remove}, its work")
            process.show("  the whole process")
            cuts.append(cut)
            processes.append(process)
            peak = max(peak, rss)
    copied, cut, process = (Measured(*map(sum, zip(*rows, strict=True))) for rows in (copies, cuts, processes))
    speed = copied.num_bytes / copied.seconds
    print(f"cut / cp: {cut.num_bytes / cut.seconds / speed:.2f}", end=", ")
    print(f"whole process {process.num_bytes / process.seconds / speed:.2f}")
    print(f"CPU a byte, cp / cut: {copied.cpu / copied.num_bytes / (cut.cpu / cut.num_bytes):.2f}")
    print(f"peak memory of the cut's process (ru_maxrss): {peak / 1e6:.0f} MB")


def write_checkpoint(folder: Path, num_bytes: float, shard_bytes: float) -> int:
    """A llama of the wanted size; the number of its layers."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    from layercut.models.structure import blueprint_model

    config = LlamaConfig(
        hidden_size=2048, intermediate_size=8192, vocab_size=32000, num_attention_heads=16, num_key_value_heads=8,
        num_hidden_layers=1, architectures=["LlamaForCausalLM"], dtype="bfloat16",
    )  # fmt: skip
    shapes = {name: value.shape for name, value in blueprint_model(config).state_dict().items()}
    layer_bytes = sum(2 * shape.numel() for name, shape in shapes.items() if ".layers." in name)
    rest = sum(2 * shape.numel() for shape in shapes.values()) - layer_bytes
    config.num_hidden_layers = max(2, round((num_bytes - rest) / layer_bytes))
    config.save_pretrained(folder)
    shards: list[dict[str, Any]] = [{}]
    for name, value in blueprint_model(config).state_dict().items():
        size = sum(2 * shape.numel() for shape in shards[-1].values())
        if shards[-1] and size + 2 * value.numel() > shard_bytes:
            shards.append({})
        shards[-1][name] = value.shape
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        bits = {name: torch.randint(-(2**15), 2**15, shape, dtype=torch.int16) for name, shape in shard.items()}
        save_file({name: drawn.view(torch.bfloat16) for name, drawn in bits.items()}, file, {"format": "pt"})
        weight_map |= dict.fromkeys(shard, file.name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return int(config.num_hidden_layers)


def time_cut(source: Path, remove: str, out: Path, files: list[Path], shard: int) -> tuple[Measured, Measured, int]:
    """The cut's work alone, the whole process, and its peak memory in bytes."""
    drop_from_cache(files)
    command = [sys.executable, "-c", CUT, str(source), remove, str(out), str(shard)]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    ended = time.perf_counter()
    sync_to_disk(out.iterdir())
    synced = time.perf_counter()
    num_bytes, work, work_cpu = said.split()
    shutil.rmtree(out)
    alone = Measured(int(num_bytes), float(work) + synced - ended, float(work_cpu))
    return alone, Measured(int(num_bytes), synced - began, usage.ru_utime + usage.ru_stime), usage.ru_maxrss * 1024


def time_copy(files: Sequence[Path], num_bytes: float, out: Path) -> Measured:
    """``cp`` of whole shards, as many as make up these bytes."""
    chosen: list[Path] = []
    total = 0
    for file in files:
        if total < num_bytes:
            chosen.append(file)
            total += file.stat().st_size
    out.mkdir()
    drop_from_cache(files)
    began = time.perf_counter()
    _, status, usage = os.wait4(subprocess.Popen(["cp", *map(str, chosen), str(out)]).pid, 0)
    if status:
        raise SystemExit("cp failed")
    sync_to_disk(out.iterdir())
    seconds = time.perf_counter() - began
    shutil.rmtree(out)
    return Measured(total, seconds, usage.ru_utime + usage.ru_stime)


def sync_to_disk(files: Iterable[Path], *, drop: bool = False) -> None:
    """Write the files to the disk, and drop them from the page cache if asked to."""
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        if drop:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def drop_from_cache(files: Iterable[Path]) -> None:
    sync_to_disk(files, drop=True)
    time.sleep(SETTLE)


if __name__ == "__main__":
    main()
