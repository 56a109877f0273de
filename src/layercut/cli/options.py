"""Options that mean the same for every verb, written once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic import BeforeValidator
from typer.core import TyperCommand

from layercut.base_settings import choices_of, limits
from layercut.cli.console import IO, result, show, speak_of, warn
from layercut.errors import InputError, unknown
from layercut.selection.specs import LayerSpec
from layercut.tasks.lm_eval.names import NAMING, of_folder
from layercut.verbs.base import Fields, Flag, Slot, Verb, name_of, plain_type, slots


def _allow_unsafe(wanted: bool) -> None:
    if wanted:
        from layercut.sandbox.runner import allow_unsafe

        allow_unsafe()


_OWN: dict[str, dict[str, Any]] = {
    "dry_run": {"help": "Print what would be done, and do nothing."},
    "unsafe_exec": {
        "callback": _allow_unsafe,
        "help": "Run programs that the model writes even where no sandbox works: with limits on time and memory, but "
        "they can read and change your files, use the network and forge a pass. As root they run as another user.",
    },
    "json": {"help": "Print the result as JSON."},
}
"""Options of the command line alone."""


def command_of(kind: type[Verb]) -> Callable[..., None]:
    """A verb as typer reads it: a flag for each field, with type, default, bounds and help, and its own options.

    A verb holds as given what was written on the command line, so that presets know. ``--help-all`` shows flags that
    ``--help`` does not, and ``--set NAME=VALUE`` reaches each; see ``VerbCommand``. The help is the class docstring.
    """
    known = slots(kind)
    own = [name for name in _OWN if name != "unsafe_exec" or kind.RUNS_PROGRAMS]
    if kind.rehearse is Verb.rehearse:
        own.remove("dry_run")
    extra = [*([] if "settings" in known else [_SET]), _PRINT, _HELP_ALL, _CONTEXT]
    extra = [_INCLUDE, *extra] if any(name in NAMING for name in known) else extra

    def command(**values: Any) -> None:
        given = {one.name: values.pop(one.name) for one in extra}
        values = of_folder(values, folder) if (folder := given.get("include_path")) is not None else values
        source = given["context"].get_parameter_source
        verb = kind.of(**{name: values[name] for name in known if source(name).name != "DEFAULT"})
        if given["print_request"]:
            result(verb.to_yaml().rstrip())
            return
        verb.fit()
        json = values["json"]
        if values.get("dry_run"):
            if not json:
                result(verb.to_yaml().rstrip())
            shown = verb.rehearse(IO)
        else:
            with verb.tracked():
                shown = verb.show(verb.run(IO), IO)
        if shown.data is not None:  # None in all but the first process of a launcher
            show(shown.data, shown.blocks, shown.lines, json=json)
        for note in shown.notes:
            warn(note)
        if shown.failed:
            raise typer.Exit(1)

    # What typer reads in place of the function's own.
    parameters = [*map(_parameter, known.values()), *(_own(name, kind) for name in own), *extra]
    keyword_only = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    command.__doc__ = kind.__doc__
    command.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
    command.renamed = {one.field: name for name, one in known.items() if one.field != name}  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in keyword_only}
    return command


def _own(name: str, kind: type[Verb]) -> inspect.Parameter:
    option = typer.Option(f"--{name.replace('_', '-')}", hidden=name in kind.HIDDEN.split(), **_OWN[name])
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option])


def _parameter(slot: Slot) -> inspect.Parameter:
    """The typer parameter of a field."""
    info, plain, how = slot.info, plain_type(slot.info.annotation), slot.how
    if isinstance(how, Fields):
        hidden, panel, spelled = slot.field not in how.shown.split(), how.panel, how.names.get(slot.field, "")
        metavar = None
    else:
        hidden, panel, spelled, metavar = how.hidden, None, how.spelled, how.metavar
    required, default = info.is_required(), info.default
    default = str(default) if isinstance(default, LayerSpec | Path) else default
    is_argument = slot.field == "model" or (isinstance(how, Flag) and how.argument)
    name = slot.name.replace("_", "-")
    names = (name, f"no-{name}") if default is True else (name,)  # so that what is on can be switched off
    word = spelled if spelled.startswith("--") else "--" + "/--".join(names)
    more: dict[str, Any] = {"rich_help_panel": panel, "hidden": hidden and not required}
    kind, is_many = _typed(slot, plain)
    metavar = metavar or ("MODEL" if slot.field == "model" else "NAME,NAME" if get_origin(plain) is tuple else None)
    if metavar:
        more["metavar"] = metavar
    if is_argument:
        mark: Any = typer.Argument(help=info.description, metavar=metavar)
        missing_default = inspect.Parameter.empty if required else default
        return inspect.Parameter(
            slot.name, inspect.Parameter.KEYWORD_ONLY, default=missing_default, annotation=Annotated[kind, mark]
        )
    found = limits(info)
    low, high = found.get("ge", found.get("gt")), found.get("le", found.get("lt"))
    if plain is float and high is not None:  # a share, which may be written in percent
        more |= {"parser": str, "metavar": "SHARE"}
    elif plain is float and _reads_text(info.annotation):
        more |= {"parser": str, "metavar": "NUMBER"}
    elif plain in (int, float):
        more |= {"min": low, "max": high}
    missing = [one for one in choices_of(info) if one not in (info.description or "")]
    choices = f" One of {', '.join(choices_of(info))}." if missing else ""
    mark = typer.Option(word, help=(info.description or "") + choices, **more)
    if not required:
        default = None if is_many or not isinstance(default, str | int | float | bool) else default
        kind = kind if default is not None else kind | None
    return inspect.Parameter(
        slot.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else default,
        annotation=Annotated[kind, mark],
    )


def _reads_text(annotation: Any) -> bool:
    """True if a field reads text itself, and says more than typer of what is wrong with it."""
    marks = (mark for part in get_args(annotation) for mark in getattr(part, "__metadata__", ()))
    return any(isinstance(mark, BeforeValidator) for mark in marks)


def _typed(slot: Slot, plain: Any) -> tuple[Any, bool]:
    """The type that typer reads for a field's, and True if it holds several values."""
    if slot.repeated:
        return list[str], True
    if get_origin(plain) is tuple or plain not in (str, int, float, bool):
        return str, get_origin(plain) is tuple
    return plain, False


def _show_all(context: typer.Context, wanted: bool) -> None:
    if wanted:
        for one in context.command.params:
            one.hidden = False  # type: ignore[attr-defined]
        typer.echo(context.get_help())
        raise typer.Exit


_HYPHEN = "\u2011"  # at which no line is broken


class VerbCommand(TyperCommand):
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
        try:
            return super().parse_args(ctx, spelled)
        except Exception as error:  # typer's NoSuchOption, which has no public name
            if getattr(error, "option_name", "") == "--limit" and "items" in flags:
                error.possibilities = ["--items"]  # type: ignore[attr-defined]
            raise

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
            | {name_of(word): word for word in spellings}
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
            help="Any option of --help-all. Repeatable.",
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
_PRINT = inspect.Parameter(
    "print_request",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool,
        typer.Option("--print-request", hidden=True, help="Print the request as YAML, which layercut run takes."),
    ],
)
_CONTEXT = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
