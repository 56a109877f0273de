"""Options that mean the same for every verb, written once."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from layercut.errors import InputError
from layercut.seed import LARGEST
from layercut.settings import DecodingSettings, ModelSettings, TaskSettings

Model = Annotated[
    str,
    typer.Argument(
        help="Hugging Face id, local Hugging Face folder, .gguf file, or bundled:smollm2-135m (the embedded default).",
        metavar="MODEL",
    ),
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.", rich_help_panel="Model")]
Dtype = Annotated[
    str,
    typer.Option(
        help="auto (the checkpoint's own, on a CPU float32), float32, bfloat16 or float16.", rich_help_panel="Model"
    ),
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
EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        help="shared: what plans have in common is computed once; plain; vllm; or openai: a server (eval only).",
        rich_help_panel="Model",
    ),
]
CacheGib = Annotated[
    float,
    typer.Option(
        help="GiB of memory for keys and values: those that plans share (shared), or all (vllm).",
        rich_help_panel="Model",
    ),
]
CudaGraphs = Annotated[
    bool,
    typer.Option(
        "--cuda-graphs",
        help="vllm: compile the model and capture CUDA graphs, for evaluating a checkpoint as it is.",
        rich_help_panel="Model",
    ),
]
BaseUrl = Annotated[
    str | None,
    typer.Option(help="openai: the server, such as http://localhost:8000/v1.", rich_help_panel="Model", metavar="URL"),
]
TokenizerName = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="openai: the served model's tokenizer, a hub id or folder; needed for ranking.",
        rich_help_panel="Model",
    ),
]
EnginePool = Annotated[
    str | None,
    typer.Option(
        help="Engines in many processes: local:N here, or ray://HOST:PORT, one for each GPU there (?gpus=K for each).",
        metavar="WHERE",
        rich_help_panel="Model",
    ),
]
Remove = Annotated[
    str | None,
    typer.Option(
        help="Layers that go, zero-based, ranges inclusive: 3,8,21-24. Or reverse:N or random:N, or a plan.json.",
        metavar="LAYERS",
    ),
]
PlanFromAnotherModel = Annotated[
    bool,
    typer.Option(
        "--plan-from-another-model",
        help="Take a plan.json that was made for another model of the same depth; what is written names both.",
        rich_help_panel="Model",
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=LARGEST, help="Root of all chance.", metavar="INTEGER")]
StudySeed = Annotated[
    int | None,
    typer.Option(min=0, max=LARGEST, help="Root of all chance, in place of the file's.", metavar="INTEGER"),
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Only the first so many items of each task; shown in every table.")
]
Data = Annotated[
    list[str] | None, typer.Option(help="Local data of a task: gsm8k=PATH. May be repeated.", metavar="TASK=PATH")
]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder with local data, in a folder for each task, such as gsm8k.", metavar="DIR")
]
Samples = Annotated[
    int,
    typer.Option(
        min=1,
        help="Answers to each prompt. The best goes on: right, ended, likeliest by token. All are kept.",
        rich_help_panel="Prompts",
    ),
]
MaxPromptTokens = Annotated[
    int | None, typer.Option(min=1, help="Leave out longer prompts.", rich_help_panel="Prompts")
]
ShuffleBuffer = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Rows of a hub data set to draw from as it streams in, by --seed; 0: in its order. If left out, 10,000.",
        rich_help_panel="Prompts",
    ),
]
PROMPTS = (
    ".txt (one a line), .jsonl, .json, .csv (also .gz) or .parquet; hub:NAME[:config[:split]]; task:NAME, for its "
    "selection items"
)
"""Where prompts may come from."""
ArithmeticData = Annotated[
    Path | None,
    typer.Option(
        help="Arithmetic files of GPT-3 (.jsonl, or a folder of them), in place of generated expressions.",
        metavar="FILE",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
UnsafeExec = Annotated[
    bool,
    typer.Option(
        "--unsafe-exec",
        help="Run programs that the model writes even where no sandbox works: with limits on time and memory, but "
        "they can read and change your files, use the network and forge a pass. As root they run as another user.",
    ),
]
Out = Annotated[Path | None, typer.Option(help="Folder to write to.", metavar="DIR")]
Temperature = Annotated[
    float, typer.Option(min=0, help="0 is greedy; above, answers are sampled.", rich_help_panel="Decoding")
]
TopP = Annotated[float, typer.Option(min=0, max=1, help="Nucleus sampling.", rich_help_panel="Decoding")]
TopK = Annotated[
    int, typer.Option(min=0, help="Sample from so many most likely tokens; 0 for all.", rich_help_panel="Decoding")
]

OBJECTIVE = (
    "Tasks, separated by commas: names, NAME:5 with five worked examples, lm-eval:NAME for any of lm-eval, suite:quick "
    "(builtin, paper) for those of a suite."
)
"""What an objective may name."""

_DECODING = {"temperature": Temperature, "top_p": TopP, "top_k": TopK}
_RUNNING = {
    "batch_size": BatchSize,
    "engine": EngineName,
    "cache_gib": CacheGib,
    "engine_pool": EnginePool,
    "cuda_graphs": CudaGraphs,
    "base_url": BaseUrl,
    "tokenizer": TokenizerName,
}
_LOADING = {
    "revision": Revision,
    "dtype": Dtype,
    "device": Device,
    "device_map": DeviceMap,
    "trust_remote_code": TrustRemoteCode,
    "plan_from_another_model": PlanFromAnotherModel,
}


def model_command(*, runs: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command on one model: its ``model: ModelSettings`` and ``decoding: DecodingSettings`` become flags.

    MODEL comes first, how answers are drawn and how the model is run after ``--seed``, how it is loaded last. Defaults
    are those of the settings.

    Args:
        runs: whether the command runs the model on more than one batch, so that batch size and engine matter.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = dict(inspect.signature(command, eval_str=True).parameters)
        running = _RUNNING if runs else {}
        model_names = ["model", *running, *_LOADING]
        draws = own.pop("decoding", None) is not None
        del own["model"]
        after_seed = list(own).index("seed") + 1
        parameters = [
            inspect.Parameter("model", inspect.Parameter.KEYWORD_ONLY, annotation=Model),
            *list(own.values())[:after_seed],
            *(_flags(DecodingSettings, _DECODING) if draws else ()),
            *_flags(ModelSettings, running),
            *list(own.values())[after_seed:],
            *_flags(ModelSettings, _LOADING),
        ]

        @functools.wraps(command)
        def with_settings(**given: Any) -> None:
            settings: dict[str, Any] = {"model": ModelSettings(**_taken(given, model_names))}
            if draws:
                settings["decoding"] = DecodingSettings(**_taken(given, _DECODING))
            command(**settings, **given)

        # What typer reads in place of the command's own.
        keyword_only = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
        with_settings.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
        with_settings.__annotations__ = {one.name: one.annotation for one in keyword_only}
        return with_settings

    return decorate


def asked_tasks(
    names: str | None,
    readouts: str | None = None,
    limit: int | None = None,
    data: list[str] | None = None,
    data_dir: Path | None = None,
    *,
    first_readouts: bool = False,
) -> tuple[TaskSettings, ...]:
    """The tasks that flags ask for; see ``layercut.tasks.suites.asked_tasks``.

    Raises:
        InputError: an unknown suite, task or readout, or local data that is not TASK=PATH, not there or for another
            task.
    """
    from layercut.study.checks import check_tasks
    from layercut.tasks import suites

    wanted = tuple(readouts.split(",")) if readouts else None
    if names is not None and not any(part.strip() for part in names.split(",")):
        raise InputError(f"{names!r} names no task; write names separated by commas, such as arithmetic,gsm8k.")
    tasks = suites.asked_tasks(
        names or "",
        limit=limit,
        readouts=wanted,
        files=local_files(data),
        folder=data_dir,
        first_readouts=first_readouts,
    )
    check_tasks(tasks)
    return tasks


def local_files(entries: list[str] | None) -> dict[str, str]:
    """Path by task, from ``--data TASK=PATH``.

    Raises:
        InputError: an entry of another form.
    """
    return dict(_pair(entry) for entry in entries or [])


def local_data(entries: list[str] | None, folder: Path | None) -> dict[str, str]:
    """``local_files``, and of every known task what a folder holds for it.

    Raises:
        InputError: an entry of another form, or no such folder.
    """
    from layercut.tasks import TASKS
    from layercut.tasks.suites import with_data

    found = with_data(tuple(TaskSettings(task=name) for name in TASKS), {}, folder)
    return {task.task: task.data for task in found if task.data} | local_files(entries)


def _pair(entry: str) -> tuple[str, str]:
    name, equals, path = entry.partition("=")
    if not equals or not name or not path:
        raise InputError(f"--data {entry!r} is not TASK=PATH, such as gsm8k=data/gsm8k.")
    return name, path


def _flags(settings: Any, annotations: dict[str, Any]) -> list[inspect.Parameter]:
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=annotation)
        for name, annotation in annotations.items()
    ]


def _taken(given: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: given.pop(name) for name in names}
