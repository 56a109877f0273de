"""Options that mean the same for every verb, written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        help="Hugging Face id, local Hugging Face folder, .gguf file, or bundled:smollm2-135m (the embedded default).",
        metavar="MODEL",
    ),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.", rich_help_panel="Model")]
Dtype = Annotated[
    str, typer.Option(help="auto (the checkpoint's own), float32, bfloat16 or float16.", rich_help_panel="Model")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.", rich_help_panel="Model")]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        help="Spread a large model over devices, as in transformers: auto, balanced.", rich_help_panel="Model"
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run model code that travels with the checkpoint.", rich_help_panel="Model"
    ),
]
BatchSize = Annotated[
    int, typer.Option(min=1, help="Sequences run at once; halved when memory runs out.", rich_help_panel="Model")
]
Remove = Annotated[
    str | None,
    typer.Option(
        help="Layers that go, zero-based, ranges inclusive: 3,8,21-24. Or criterion:N (reverse:3), or a plan.json.",
        metavar="LAYERS",
    ),
]
Seed = Annotated[int, typer.Option(help="Root of all chance.")]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Only the first so many items of each task; shown in every table.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
UnsafeExec = Annotated[
    bool,
    typer.Option("--unsafe-exec", help="Run programs that the model writes even where no sandbox works here."),
]
Out = Annotated[Path | None, typer.Option(help="Folder to write to.", metavar="DIR")]
Temperature = Annotated[
    float, typer.Option(min=0, help="0 is greedy; above, answers are sampled.", rich_help_panel="Decoding")
]
TopP = Annotated[float, typer.Option(min=0, max=1, help="Nucleus sampling.", rich_help_panel="Decoding")]
TopK = Annotated[
    int, typer.Option(min=0, help="Sample from so many most likely tokens; 0 for all.", rich_help_panel="Decoding")
]
