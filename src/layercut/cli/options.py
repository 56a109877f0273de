"""Options that mean the same for every verb, written once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from copy import copy
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

import typer
from typer.core import TyperCommand

from layercut.base_settings import Settings, choices_of, limits, share
from layercut.cli.console import speak_of
from layercut.errors import InputError, unknown
from layercut.seed import LARGEST
from layercut.settings import TaskSettings
from layercut.tasks.lm_eval.names import NAMING, of_folder

Remove = Annotated[
    str | None,
    typer.Option(
        help="Layers to remove, zero-based, ranges inclusive: 3,8,21-24. Or reverse:N or random:N (N may be 25%), or a "
        "plan.json.",
        metavar="LAYERS",
    ),
]


def a_share(help: str, *, least: float = 0, most: float = 1) -> Any:
    """The option of a share that is no field of settings; it may be written in percent."""

    def parsed(param: typer.CallbackParam, value: Any) -> Any:
        found = None if value is None else share(value, str(param.name))
        if found is None or least <= found <= most:
            return found
        raise InputError(f"{param.name} {found:g} is not from {least:g} to {most:g}, such as 0.9 or 90%.")

    return typer.Option(help=help, parser=str, callback=parsed, metavar="SHARE")


Keep = Annotated[
    float | None,
    a_share(
        "Only as many layers of a search by task scores as keep this share on its selection items; layercut prune "
        "confirms it on others.",
        least=0.01,
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=LARGEST, help="Random seed.", metavar="INTEGER")]
StudySeed = Annotated[
    int | None, typer.Option(min=0, max=LARGEST, help="Random seed, in place of the file's.", metavar="INTEGER")
]
Limit = Annotated[int | None, typer.Option(min=1, help="At most this many items of each task; shown in every table.")]
Data = Annotated[
    list[str] | None, typer.Option(help="Local data of a task: gsm8k=PATH. May be repeated.", metavar="TASK=PATH")
]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder with local data, in a folder for each task, such as gsm8k.", metavar="DIR")
]
PROMPTS = (
    ".txt (one a line), .jsonl, .json, .csv (also .gz) or .parquet; hub:NAME[:config[:split]]; task:NAME, for its "
    "selection items"
)
"""Where prompts may come from."""
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def _allow_unsafe(wanted: bool) -> None:
    if wanted:
        from layercut.sandbox.runner import allow_unsafe

        allow_unsafe()


UnsafeExec = Annotated[
    bool,
    typer.Option(
        "--unsafe-exec",
        callback=_allow_unsafe,
        help="Run programs that the model writes even where no sandbox works: with limits on time and memory, but "
        "they can read and change your files, use the network and forge a pass. As root they run as another user.",
    ),
]
Out = Annotated[Path | None, typer.Option(help="Folder to write to.", metavar="DIR")]


def out_to(what: str) -> Any:
    """The option ``--out`` of a verb whose own name for it is ``out_folder``."""
    return typer.Option("--out", help=what, metavar="DIR")


OBJECTIVE = (
    "Tasks, separated by commas: names, NAME:5 with five worked examples, lm-eval:NAME for any of lm-eval, suite:quick "
    "(builtin, paper) for those of a suite."
)
"""What an objective may name."""


class Flags(NamedTuple):
    """How the fields of a settings class become flags of a verb: ``train: Annotated[TrainSettings, Flags(...)]``."""

    panel: str | None = None
    """Under which heading of ``--help``."""
    shown: str = ""
    """Fields that ``--help`` shows; the others are reached as well, by ``--set`` too, and shown by ``--help-all``."""
    without: str = ""
    """Fields that are no flags of this verb."""
    names: Mapping[str, str] = {}
    """What a flag is called whose name is not the field's."""


def flag(kind: type[Settings], name: str, *spelling: str, **more: Any) -> Any:
    """The option that stands for a field: its help, choices and bounds."""
    field = kind.model_fields[name]
    found = limits(field)
    missing = [one for one in choices_of(field) if one not in (field.description or "")]
    choices = f" One of {', '.join(choices_of(field))}." if missing else ""
    low, high = found.get("ge", found.get("gt")), found.get("le", found.get("lt"))
    more |= {"parser": str, "metavar": "SHARE"} if high == 1 else {"min": low, "max": high}
    spelled = spelling or ((f"--{name.replace('_', '-')}",) if field.annotation is bool else ())
    return typer.Option(
        *spelled,
        help=(field.description or "") + choices,
        **more,
    )


def command(*, hidden: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A verb whose settings become flags: one for each field, with its type, default, bounds and help.

    Settings hold as given what was written on the command line, so that presets know. Where flags are not shown,
    ``--help-all`` shows them, and ``--set NAME=VALUE`` reaches them as well; see ``Verb``.

    Args:
        hidden: parameters of the verb's own that ``--help`` does not show.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        parameters: list[inspect.Parameter] = []
        kinds: dict[str, tuple[type[Settings], dict[str, str]]] = {}
        for one in inspect.signature(function, eval_str=True).parameters.values():
            kind, *marks = get_args(one.annotation) if get_origin(one.annotation) is Annotated else (one.annotation,)
            if not (isinstance(kind, type) and issubclass(kind, Settings)):
                parameters.append(_hidden(one) if one.name in hidden.split() else one)
                continue
            how = next((mark for mark in marks if isinstance(mark, Flags)), Flags())
            fields = {
                field: how.names.get(field, field) for field in kind.model_fields if field not in how.without.split()
            }
            kinds[one.name] = kind, {field: _name_of(name) for field, name in fields.items()}
            parameters += [_parameter(kind, field, name, how) for field, name in fields.items()]
        has_own = any(one.name == "setting" for one in parameters)
        extra = [_HELP_ALL, _CONTEXT] if has_own else [_SET, _HELP_ALL, _CONTEXT]
        extra = [_INCLUDE, *extra] if any(one.name in NAMING for one in parameters) else extra
        parameters += extra

        @functools.wraps(function)
        def with_settings(**values: Any) -> None:
            folder, *_, context = [values.pop(one.name) for one in extra]
            values = of_folder(values, folder) if isinstance(folder, Path) else values
            written = {name for name in values if context.get_parameter_source(name).name != "DEFAULT"}
            settings = {}
            for name, (kind, fields) in kinds.items():
                taken = {field: values.pop(flag) for field, flag in fields.items()}
                given = {field: taken[field] for field, flag in fields.items() if flag in written}
                settings[name] = kind(**{field: _as_field(kind, field, value) for field, value in given.items()})
            function(**settings, **values)

        # What typer reads in place of the function's own.
        keyword_only = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
        with_settings.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
        with_settings.renamed = {  # type: ignore[attr-defined]
            field: name for _, fields in kinds.values() for field, name in fields.items() if field != name
        }
        with_settings.__annotations__ = {one.name: one.annotation for one in keyword_only}
        return with_settings

    return decorate


def _parameter(kind: type[Settings], field: str, name: str, how: Flags) -> inspect.Parameter:
    """What typer reads for a field."""
    info, plain = kind.model_fields[field], _plain_type(kind.model_fields[field].annotation)
    if field == "model":
        mark: Any = typer.Argument(help=info.description, metavar="MODEL")
        return inspect.Parameter(field, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[str, mark])
    is_list = plain == (str | None) and "tuple" in str(info.annotation)
    more: dict[str, Any] = {"metavar": "NAME,NAME"} if is_list else {}
    spelling = (name,) if name.startswith("--") else (f"--{name.replace('_', '-')}",) if name != field else ()
    mark = flag(kind, field, *spelling, rich_help_panel=how.panel, hidden=field not in how.shown.split(), **more)
    default = None if is_list else info.default
    return inspect.Parameter(
        _name_of(name), inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[plain, mark]
    )


def _name_of(flag: str) -> str:
    """The parameter that a flag becomes: keep_it of ``--keep-it/--drop-it``."""
    return flag.partition("/")[0].strip("-").replace("-", "_")


def _plain_type(annotation: Any) -> Any:
    """What typer can read: text with commas for a list of names, the type itself without checks for all else."""
    if get_origin(annotation) is Annotated:
        return _plain_type(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return _plain_type(get_args(annotation)[0]) | None
    return str | None if get_origin(annotation) is tuple else annotation


def _as_field(kind: type[Settings], field: str, value: Any) -> Any:
    """A value from the command line; names with commas between are a list."""
    is_list = isinstance(value, str) and "tuple" in str(kind.model_fields[field].annotation)
    return tuple(part for part in value.split(",") if part) if is_list else value


def _hidden(parameter: inspect.Parameter) -> inspect.Parameter:
    kind, option = get_args(parameter.annotation)
    option = copy(option)
    option.hidden = True
    return parameter.replace(annotation=Annotated[kind, option])


def _show_all(context: typer.Context, wanted: bool) -> None:
    if wanted:
        for one in context.command.params:
            one.hidden = False  # type: ignore[attr-defined]
        typer.echo(context.get_help())
        raise typer.Exit


_HYPHEN = "\u2011"
"""At which no line is broken."""


class Verb(TyperCommand):
    """A command whose ``--set NAME=VALUE`` is another spelling of ``--name VALUE``, whether ``--help`` shows it or not.

    What is no flag of the verb is left to its parameter ``setting``.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See click."""
        flags = _settable(self)
        left, spelled = list(args), []
        while left:
            word = left.pop(0)
            if word == "--set" and left:
                word = f"--set={left.pop(0)}"
            name, equals, value = word.removeprefix("--set=").partition("=")
            found = flags.get(name.replace("-", "_"))
            if not word.startswith("--set="):
                spelled.append(word)
            else:
                spelled += [word] if found is None or not equals else _spelled(found, value)
        speak_of(self._flags())
        return super().parse_args(ctx, spelled)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """See click: arguments, options, then a section for each panel; no word is broken at its hyphens."""
        self.format_usage(ctx, formatter)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text((self.help or "").replace("-", _HYPHEN))
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for one in self.get_params(ctx):
            if (row := one.get_help_record(ctx)) is not None:
                is_argument = one.param_type_name == "argument"
                panel = "Arguments" if is_argument else getattr(one, "rich_help_panel", None) or "Options"
                sections.setdefault(panel, []).append((row[0], row[1].replace("-", _HYPHEN)))
        for panel, rows in sections.items():
            if rows:
                with formatter.section(panel):
                    formatter.write_dl(rows)
        formatter.buffer[:] = [text.replace(_HYPHEN, "-") for text in formatter.buffer]

    def _flags(self) -> dict[str, str]:
        """By field, what it is called on the command line."""
        options = [one for one in self.params if one.param_type_name == "option"]
        negative = {f"{one.name}=false": word for one in options for word in one.secondary_opts}
        spellings = [word for one in options for word in one.opts]
        renamed = getattr(self.callback, "renamed", {})
        return (
            negative
            | {_name_of(word): word for word in spellings}
            | {field: f"--{name.replace('_', '-')}" for field, name in renamed.items()}
        )


def _spelled(option: Any, value: str) -> list[str]:
    """An option as people would write it."""
    if not option.is_flag:
        return [f"{option.opts[0]}={value}"]
    if value not in ("true", "false"):
        raise InputError(f"{option.name}={value} is neither true nor false; write one of them.")
    if value == "true":
        return [option.opts[0]]
    return list(option.secondary_opts[:1])


def _settable(verb: Any) -> dict[str, Any]:
    """A verb's options by name, but those that are about options."""
    given = {str(one.name): one for one in verb.params if one.param_type_name == "option"}
    return {name: one for name, one in given.items() if name not in ("setting", "help_all", "help")}


def _refuse(context: typer.Context, given: list[str] | None) -> None:
    for entry in given or ():
        name, equals, _ = entry.partition("=")
        if not equals:
            raise InputError(f"--set {entry!r} is not NAME=VALUE, such as seed=1.")
        raise unknown("setting", name, _settable(context.command))


_SET = inspect.Parameter(
    "setting",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            callback=_refuse,
            help="Any option of --help-all, such as seed=1. Repeatable.",
            metavar="NAME=VALUE",
        ),
    ],
)
_Folder = Annotated[Path | None, typer.Option(hidden=True, help="Folder with own lm-eval tasks.", metavar="DIR")]
_INCLUDE = inspect.Parameter("include_path", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_Folder)
_HELP_ALL = inspect.Parameter(
    "help_all",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool, typer.Option("--help-all", is_eager=True, callback=_show_all, help="Show every option.")
    ],
)
_CONTEXT = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
SHOWN_OF_MODEL = Flags("Model", shown="dtype device batch_size engine")
"""What each verb on a model shows of it."""
LOADED_MODEL = Flags(
    "Model",
    shown="revision dtype device",
    without="batch_size engine cache_gib engine_pool cuda_graphs base_url tokenizer",
)
"""A model that is loaded, and run on one batch at most."""
SHOWN_OF_DECODING = Flags("Decoding", shown="temperature")


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
    """Path by task, from ``--data TASK=PATH``. Raises InputError: an entry of another form."""
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
