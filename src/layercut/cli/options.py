"""The options of a verb, made from its fields, and those that mean the same for every verb."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic import BeforeValidator
from typer.core import TyperCommand

from layercut.base_settings import choices_of, field_limits
from layercut.cli.console import log, print_line, print_result_line, print_warning, set_flag_names, show_result
from layercut.selection.specs import LayerSpec
from layercut.verbs.base import Io, Slot, Verb, field_slots, name_of_flag, plain_type

IO = Io(log, print_line)  # progress and lines for people go to stderr
_HYPHEN = "\u2011"  # at which no line is broken


def command_of_verb(kind: type[Verb]) -> Callable[..., None]:
    """A verb as typer reads it: a flag for each field, with type, default, bounds and help, and its own options.

    A verb holds as given what was written on the command line, so that presets know. ``--help-all`` shows flags that
    ``--help`` does not. The help is the class docstring.
    """
    known, shared = field_slots(kind), _shared_options(kind)

    def command(context: Any, **values: Any) -> None:
        own = {option.name: values.pop(option.name) for option in shared}
        source = context.get_parameter_source
        verb = kind.of(**{name: values[name] for name in known if source(name).name != "DEFAULT"})
        if own["print_request"]:
            print_result_line(verb.to_yaml().rstrip())
            return
        verb.fit()
        if own.get("dry_run"):
            if not own["json"]:
                print_result_line(verb.to_yaml().rstrip())
            shown = verb.rehearse(IO)
        else:
            with verb.tracked():
                shown = verb.show(verb.run(IO), IO)
        if shown.data is not None:  # None in all but the first process of a launcher
            show_result(shown.data, shown.blocks, shown.lines, json=own["json"])
        for note in shown.notes:
            print_warning(note)
        if shown.failed:
            raise typer.Exit(1)

    # What typer reads in place of the function's own.
    context = _keyword("context", typer.Context)
    parameters = [*map(_option_of, known.values()), *shared, context]
    command.__doc__ = kind.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.renamed = {slot.field: name for name, slot in known.items() if slot.field != name}  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _keyword(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _shared_options(kind: type[Verb]) -> list[inspect.Parameter]:
    """The options of a verb that are no fields of it."""

    def flag(name: str, help: str, **more: Any) -> inspect.Parameter:
        word, hidden = f"--{name.replace('_', '-')}", name in ("print_request", *kind.HIDDEN.split())
        option = typer.Option(word, help=help, hidden=hidden, **more)
        return _keyword(name, Annotated[bool, option], False)

    options = []
    if kind.rehearse is not Verb.rehearse:
        options.append(flag("dry_run", "Print what would be done, and do nothing."))
    if kind.RUNS_PROGRAMS:
        unsafe = (
            "Run programs that the model writes even where no sandbox works: with limits on time and memory, but they "
            "can read and change your files, use the network and forge a pass. As root they run as another user."
        )
        options.append(flag("unsafe_exec", unsafe, callback=_allow_unsafe))
    options.append(flag("json", "Print the result as JSON."))
    options.append(flag("print_request", "Print the request as YAML, which layercut run takes."))
    options.append(flag("help_all", "Show every option.", is_eager=True, callback=_show_all))
    return options


def _allow_unsafe(wanted: bool) -> None:
    if wanted:
        from layercut.sandbox.runner import allow_unsafe

        allow_unsafe()


def _show_all(context: typer.Context, wanted: bool) -> None:
    if wanted:
        for parameter in context.command.params:
            parameter.hidden = False  # type: ignore[attr-defined]
        typer.echo(context.get_help())
        raise typer.Exit


def _option_of(slot: Slot) -> inspect.Parameter:
    """The typer parameter of a field."""
    info, plain, flag = slot.info, plain_type(slot.info.annotation), slot.flag
    required, default = info.is_required(), info.default
    default = str(default) if isinstance(default, LayerSpec | Path) else default
    is_many = flag.repeated or get_origin(plain) is tuple
    kind = list[str] if flag.repeated else plain if plain in (str, int, float, bool) else str
    metavar = flag.metavar or (
        "MODEL" if slot.field == "model" else "NAME,NAME" if get_origin(plain) is tuple else None
    )
    if flag.argument or slot.field == "model":
        mark: Any = typer.Argument(help=info.description, metavar=metavar)
        return _keyword(slot.name, Annotated[kind, mark], inspect.Parameter.empty if required else default)
    more: dict[str, Any] = {"metavar": metavar} if metavar else {}
    bounds = field_limits(info)
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    if plain is float and high is not None:  # a share, which may be written in percent
        more |= {"parser": str, "metavar": "SHARE"}
    elif plain is float and _reads_text(info.annotation):
        more |= {"parser": str, "metavar": "NUMBER"}
    elif plain in (int, float):
        more |= {"min": low, "max": high, **({"metavar": "NUMBER"} if plain is float else {})}
    name, about = slot.name.replace("_", "-"), info.description or ""
    if any(choice not in about for choice in choices_of(info)):
        about += f" One of {', '.join(choices_of(info))}."
    words = (name, f"no-{name}") if default is True else (name,)  # what is on can be switched off
    word = "--" + "/--".join(words)
    spelled = flag.spelled.split(",") if flag.spelled.startswith("--") else [word]
    mark = typer.Option(*spelled, help=about, rich_help_panel=slot.panel, hidden=flag.hidden and not required, **more)
    if required:
        return _keyword(slot.name, Annotated[kind, mark])
    default = None if is_many or not isinstance(default, str | int | float | bool) else default
    return _keyword(slot.name, Annotated[kind if default is not None else kind | None, mark], default)


def _reads_text(annotation: Any) -> bool:
    """True if a field reads text itself, and says more than typer of what is wrong with it."""
    marks = (mark for part in get_args(annotation) for mark in getattr(part, "__metadata__", ()))
    return any(isinstance(mark, BeforeValidator) for mark in marks)


class VerbCommand(TyperCommand):
    """A command that says flags where the library says fields."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        set_flag_names(self.flags)
        return super().parse_args(ctx, args)

    @property
    def flags(self) -> dict[str, str]:
        """By field, what it is called on the command line."""
        options = [option for option in self.params if option.param_type_name == "option"]
        flags = {f"{option.name}=false": word for option in options for word in option.secondary_opts}
        flags |= {name_of_flag(word): word for option in options for word in option.opts}
        renamed = getattr(self.callback, "renamed", {})
        return flags | {field: f"--{name.replace('_', '-')}" for field, name in renamed.items()}

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, options, then a section for each panel; no word is broken at its hyphens."""
        self.format_usage(ctx, formatter)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text((self.help or "").replace("-", _HYPHEN))
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            if (row := parameter.get_help_record(ctx)) is not None:
                is_argument = parameter.param_type_name == "argument"
                panel = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None) or "Options"
                sections.setdefault(panel, []).append((row[0], row[1].replace("-", _HYPHEN)))
        for panel, rows in sections.items():
            if rows:
                with formatter.section(panel):
                    formatter.write_dl(rows)
        formatter.buffer[:] = [text.replace(_HYPHEN, "-") for text in formatter.buffer]
