"""The command line: ``layercut VERB ...``. No verb is named here; see ``layercut.verbs``."""

from __future__ import annotations

import errno
import inspect
import logging
import os
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from layercut import __version__
from layercut.cli.console import log, print_error, print_line, print_warning
from layercut.errors import InputError, VerificationError
from layercut.progress.activity import under_way
from layercut.progress.bars import clock_text
from layercut.runs.disk import disk_problem
from layercut.text import PURPOSE, printable_text
from layercut.verbs import VERBS, verb_class

_HELP = {"help_option_names": ["-h", "--help"]}


def verb_command(name: str) -> Any:
    """A verb as typer runs it; paragraphs of its help are one line each, as the terminal breaks lines itself."""
    from layercut.cli.options import VerbCommand, command_of_verb

    alone = typer.Typer(add_completion=False, context_settings=_HELP, rich_markup_mode=None)
    alone.command(name, cls=VerbCommand)(command_of_verb(verb_class(name)))
    command: Any = typer.main.get_command(alone)
    paragraphs = inspect.cleandoc(command.help).split("\n\n")
    command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    return command


def verb_commands() -> dict[str, Any]:
    """All of them by name."""
    return {name: verb_command(name) for name in VERBS}


class _Verbs(TyperGroup):
    """Runs a verb: without a terminal it is heard of every half minute, and Ctrl-C says how to go on."""

    _is_listing = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {name: TyperCommand(name, short_help=says) for name, (_, says) in VERBS.items()}

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The verb; only its name and what it does where all are listed."""
        return verb_command(cmd_name) if cmd_name in VERBS and not self._is_listing else self.commands.get(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._is_listing = True
        super().format_help(ctx, formatter)

    def invoke(self, ctx: Any) -> Any:
        began = time.monotonic()

        def still_running() -> str:
            return f"layercut {ctx.invoked_subcommand}: still running, {clock_text(time.monotonic() - began)} so far"

        try:
            with under_way(log, still_running):
                return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends what is left without a word
            print_line(_stopped(stop))
            raise typer.Exit(130) from None


def _stopped(stop: KeyboardInterrupt) -> str:
    """A line on what Ctrl-C left on disk, and how to go on."""
    from layercut.runs.directory import describe_saved

    folders = getattr(stop, "__notes__", [])  # run folders that it came through, the outermost last
    if folders and (left := describe_saved(Path(folders[-1]))):
        return f"Stopped. {left}; run the same command to continue."
    return "Stopped. Nothing new was saved; run the same command again."


app = typer.Typer(
    name="layercut",
    cls=_Verbs,
    help=f"layercut {PURPOSE}.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=_HELP,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"layercut {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of layercut itself."""


class _Notes(logging.Handler):
    """Prints the library's log lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        print_warning(record.getMessage())


def _show_notes() -> None:
    logger = logging.getLogger("layercut")
    logger.handlers = [_Notes()]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def main() -> None:
    """Run the command line: exit 0 well, 1 error, 2 usage, 130 Ctrl-C. LAYERCUT_TRACEBACK=1 shows where."""
    _show_notes()
    if not sys.warnoptions:  # what libraries tell each other of their next versions, and torchao of cards not there
        warnings.simplefilter("ignore", FutureWarning)
        for name in ("torchao", "torch.utils._pytree"):
            logging.getLogger(name).setLevel(logging.ERROR)
    for number, argument in enumerate(sys.argv[1:], start=1):
        if (shown := printable_text(argument)) != argument:
            print_error(f"argument {number} is {shown!r}, with characters that are no text; leave them out.")
            sys.exit(2)
    try:
        app()
    except Exception as problem:
        if os.environ.get("LAYERCUT_TRACEBACK"):
            raise
        if (message := _message(problem)) is None:  # our fault; what it quotes may come from anywhere
            log.print(traceback.format_exc().rstrip(), soft_wrap=True)
        else:
            print_error(message)
        sys.exit(1)


def _message(problem: Exception) -> str | None:
    """One line for what the user can mend, None for anything else."""
    if isinstance(problem, InputError | VerificationError):
        return str(problem)
    if isinstance(problem, OSError) and problem.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        longest = max(Path(str(problem.filename)).parts, key=len)
        return f"no file can be called {longest[:60]!r}... ({problem.strerror}). Use another name."
    return disk_problem(problem) if isinstance(problem, OSError) else None
