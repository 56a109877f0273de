"""What a cut of a big checkpoint costs beside ``cp`` of the bytes that stay: speed, and peak memory.

    python benchmarks/cut.py --gb 20 --folder /where/there/is/room

A checkpoint of random bfloat16 bits is written in shards, layers in its middle are cut with ``--no-verify``, and
``cp`` copies as many bytes of the same shards before, between and after. Before each the shards are dropped from the
page cache (``posix_fadvise``; how much was left is printed) and ten seconds pass: a virtual machine hands memory that
was freed back to its host meanwhile, and takes it again page by page, which may double the CPU time of a copy. Each
counts until its files are on the disk (``fsync``). The cut is timed twice: its work alone, and the whole process, start
and imports (torch) included, which take the same few seconds whatever the size. All files are deleted.
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
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

HIDDEN, INNER, VOCAB, HEADS, KV_HEADS = 2048, 8192, 32000, 16, 8
SETTLE = 10.0
"""Seconds before each copy."""
CUT = """
import sys, time
from pathlib import Path
from transformers import CONFIG_MAPPING
CONFIG_MAPPING["llama"]  # imports torch
from layercut.selection.specs import plan_of
from layercut.surgery.cut import cut_model
from layercut.engine.handle import ModelHandle
from layercut.settings import ModelSettings
source, remove, out, shard = sys.argv[1:]
began, began_cpu = time.perf_counter(), time.process_time()
handle = ModelHandle(ModelSettings(model=source))
done = cut_model(handle.source, plan_of(handle, remove, 0), Path(out), uncut=None, max_shard_bytes=int(shard))
print(done.bytes_after, time.perf_counter() - began, time.process_time() - began_cpu)
"""


class Measured(NamedTuple):
    """One copy or cut."""

    num_bytes: int
    seconds: float
    """Until the files were on the disk."""
    cpu: float
    """Seconds of processor time of the copying process, user and system."""
    cached: int | None
    """Bytes of the source in the page cache when it began; None where fincore is missing."""

    @property
    def cpu_a_byte(self) -> float:
        """Seconds."""
        return self.cpu / self.num_bytes

    @property
    def speed(self) -> float:
        """GB/s."""
        return self.num_bytes / self.seconds / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=4.0, help="size of the uncut checkpoint")
    parser.add_argument("--shard-gb", type=float, default=1.0, help="largest shard, of both checkpoints")
    parser.add_argument("--share", type=float, default=0.2, help="layers that go, in the middle")
    parser.add_argument("--rounds", type=int, default=2, help="cuts, each between two copies")
    parser.add_argument("--folder", type=Path, help="where to work; the folder for temporary files if left out")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder, prefix="layercut-bench-") as folder:
        session(asked, Path(folder))


def session(asked: argparse.Namespace, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < 2.1e9 * asked.gb:
        raise SystemExit(f"{folder} has {free / 1e9:.0f} GB free; {2.1 * asked.gb:.0f} GB are needed.")
    began = time.perf_counter()
    num_layers = write_checkpoint(folder / "uncut", asked.gb * 1e9, asked.shard_gb * 1e9)
    files = sorted((folder / "uncut").glob("*.safetensors"))
    total = sum(file.stat().st_size for file in files)
    print(f"checkpoint: {total / 1e9:.2f} GB, {num_layers} layers, {len(files)} shards, random bfloat16 bits")
    print(f"written in {time.perf_counter() - began:.0f} s; {cp_version()}, Linux {os.uname().release}")
    num_cut = max(1, round(asked.share * num_layers))
    first = (num_layers - num_cut) // 2
    remove = f"{first}-{first + num_cut - 1}"
    kept_share = 1 - num_cut / num_layers
    copies, cuts, processes, peak = [], [], [], 0
    for number in range(asked.rounds + 1):
        copies.append(copied(files, kept_share * total, folder / "copy"))
        row("cp", copies[-1])
        if number < asked.rounds:
            cut, process, rss = cut_measured(folder / "uncut", remove, folder / "cut", files, int(asked.shard_gb * 1e9))
            cuts.append(cut)
            processes.append(process)
            peak = max(peak, rss)
            row(f"cut {remove}, its work", cut)
            row("  the whole process", process)
    speed = together(copies).speed
    print(f"cut / cp: {together(cuts).speed / speed:.2f}, whole process {together(processes).speed / speed:.2f}")
    print(f"CPU a byte, cp / cut: {together(copies).cpu_a_byte / together(cuts).cpu_a_byte:.2f}")
    print(f"peak memory of the cut's process (ru_maxrss): {peak / 1e6:.0f} MB")


def together(some: Sequence[Measured]) -> Measured:
    """All bytes and all seconds."""
    num_bytes, seconds, cpu = (sum(getattr(one, name) for one in some) for name in ("num_bytes", "seconds", "cpu"))
    return Measured(num_bytes, seconds, cpu, None)


def row(name: str, one: Measured) -> None:
    cached = "unknown" if one.cached is None else f"{one.cached / 1e9:.2f} GB"
    print(
        f"{name:26} {one.num_bytes / 1e9:7.2f} GB  {one.seconds:7.1f} s  {one.speed:6.2f} GB/s  "
        f"CPU {one.cpu:5.1f} s  source cached: {cached}"
    )


def write_checkpoint(folder: Path, num_bytes: float, shard_bytes: float) -> int:
    """A llama of the wanted size; the number of its layers."""
    shapes = {
        "input_layernorm.weight": (HIDDEN,),
        "mlp.down_proj.weight": (HIDDEN, INNER),
        "mlp.gate_proj.weight": (INNER, HIDDEN),
        "mlp.up_proj.weight": (INNER, HIDDEN),
        "post_attention_layernorm.weight": (HIDDEN,),
        "self_attn.k_proj.weight": (HIDDEN * KV_HEADS // HEADS, HIDDEN),
        "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
        "self_attn.q_proj.weight": (HIDDEN, HIDDEN),
        "self_attn.v_proj.weight": (HIDDEN * KV_HEADS // HEADS, HIDDEN),
    }
    layer_bytes = 2 * sum(int(np.prod(shape)) for shape in shapes.values())
    num_layers = max(2, round((num_bytes - 4 * VOCAB * HIDDEN) / layer_bytes))
    tensors = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    tensors |= {f"model.layers.{i}.{name}": shape for i in range(num_layers) for name, shape in shapes.items()}
    tensors |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB, HIDDEN)}
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, shape in tensors.items():
        count = 2 * int(np.prod(shape))
        if groups[-1] and size + count > shard_bytes:
            groups.append({})
            size = 0
        groups[-1][name] = shape
        size += count
    folder.mkdir()
    random = np.random.default_rng(0)
    weight_map = {}
    for number, group in enumerate(groups, 1):
        file = folder / f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        write_shard(file, group, random)
        weight_map |= dict.fromkeys(group, file.name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": num_layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCAB,
        "dtype": "bfloat16",
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return num_layers


def write_shard(path: Path, tensors: dict[str, tuple[int, ...]], random: np.random.Generator) -> None:
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (begin, end)}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        while end:
            count = min(end, 2**24)
            file.write(random.bytes(count))
            end -= count


def cut_measured(source: Path, remove: str, out: Path, files: list[Path], shard: int) -> tuple[Measured, Measured, int]:
    """The cut's work alone, the whole process, and its peak memory in bytes."""
    cached = uncached(files)
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
    to_disk(out.iterdir())
    synced = time.perf_counter()
    num_bytes, work, work_cpu = said.split()
    shutil.rmtree(out)
    whole = Measured(int(num_bytes), synced - began, usage.ru_utime + usage.ru_stime, cached)
    alone = whole._replace(seconds=float(work) + synced - ended, cpu=float(work_cpu))
    return alone, whole, usage.ru_maxrss * 1024


def copied(files: list[Path], num_bytes: float, out: Path) -> Measured:
    """``cp`` of whole shards, as many as make up these bytes."""
    chosen: list[Path] = []
    for file in files:
        if sum(one.stat().st_size for one in chosen) < num_bytes:
            chosen.append(file)
    total = sum(file.stat().st_size for file in chosen)
    out.mkdir()
    cached = uncached(files)
    began = time.perf_counter()
    _, status, usage = os.wait4(subprocess.Popen(["cp", *map(str, chosen), str(out)]).pid, 0)
    if status:
        raise SystemExit("cp failed")
    to_disk(out.iterdir())
    seconds = time.perf_counter() - began
    shutil.rmtree(out)
    return Measured(total, seconds, usage.ru_utime + usage.ru_stime, cached)


def to_disk(files: object) -> None:
    for file in files:  # type: ignore[attr-defined]
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def uncached(files: list[Path]) -> int | None:
    """Drop the files from the page cache; the bytes that are in it all the same."""
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    time.sleep(SETTLE)
    if shutil.which("fincore") is None:
        return None
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", *map(str, files)]
    return sum(map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()))


def cp_version() -> str:
    return subprocess.run(["cp", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


if __name__ == "__main__":
    main()
