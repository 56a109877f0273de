"""The command line: ``layercut VERB ...``. Each verb is a thin skin over a public function, importing what it needs."""

from __future__ import annotations

import errno
import inspect
import logging
import os
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from layercut import __version__
from layercut.cli import (
    advise,
    clean,
    compare,
    cut,
    diagnose,
    env,
    evaluate,
    generate,
    heal,
    ls,
    plan_size,
    report,
    run,
    select,
    sweep,
)
from layercut.cli.console import error, log, say, warn
from layercut.errors import InputError, VerificationError
from layercut.progress.heartbeat import clock, under_way
from layercut.runs.disk import disk_problem
from layercut.text.markup import printable


class _Verbs(TyperGroup):
    """Runs a verb: without a terminal it is heard of every half minute, and Ctrl-C says how to go on."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The verb; paragraphs of its help are one line each, as the terminal breaks lines itself."""
        found = super().get_command(ctx, cmd_name)
        if found is not None and found.help:
            paragraphs = inspect.cleandoc(found.help).split("\n\n")
            found.help = "\n\n".join(" ".join(one.split()) for one in paragraphs)
        return found

    def invoke(self, ctx: Any) -> Any:
        began = time.monotonic()

        def still_running() -> str:
            return f"layercut {ctx.invoked_subcommand}: still running, {clock(time.monotonic() - began)} so far"

        try:
            with under_way(log, still_running):
                return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            say(_stopped(stop, ctx.invoked_subcommand))
            raise typer.Exit(130) from None


def _stopped(stop: KeyboardInterrupt, verb: str | None) -> str:
    """What Ctrl-C left on disk, and how to go on."""
    from layercut.runs.directory import saved

    folders = getattr(stop, "__notes__", [])  # run folders that it came through, the outermost last
    if folders and (found := saved(Path(folders[-1]))):
        return f"Stopped. {found}; run the same command to continue."
    again = "Run the same command to start again."
    if verb == "generate" and not folders:
        again = "With --out DIR answers are saved as they come, and the same command continues."
    return f"Stopped. Nothing is saved. {again}"


app = typer.Typer(
    name="layercut",
    cls=_Verbs,
    help="Remove decoder layers from a language model and learn what it can still do.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("select")(select.select)
app.command("cut")(cut.cut)
app.command("eval")(evaluate.evaluate)
app.command("generate")(generate.generate)
app.command("heal")(heal.heal)
app.command("run")(run.run)
app.command("sweep")(sweep.sweep)
app.command("diagnose")(diagnose.diagnose)
app.command("plan-size")(plan_size.plan_size)
app.command("advise")(advise.advise)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.command("ls")(ls.ls)
app.command("clean")(clean.clean)
app.command("env")(env.env)


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
    """What the library has to say goes to stderr, in its own words."""

    def emit(self, record: logging.LogRecord) -> None:
        warn(record.getMessage())


def _show_notes() -> None:
    logger = logging.getLogger("layercut")
    logger.handlers = [_Notes()]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def main() -> None:
    """Run the command line: exit 0 well, 1 error, 2 usage, 130 Ctrl-C. LAYERCUT_TRACEBACK=1 shows where."""
    _show_notes()
    if not sys.warnoptions:  # what libraries tell each other of their next versions
        warnings.simplefilter("ignore", FutureWarning)
    for number, argument in enumerate(sys.argv[1:], start=1):
        if (shown := printable(argument)) != argument:
            error(f"argument {number} is {shown!r}, with characters that are no text; leave them out.")
            sys.exit(2)
    try:
        app()
    except Exception as problem:
        if os.environ.get("LAYERCUT_TRACEBACK"):
            raise
        if (message := _message(problem)) is None:  # our fault; what it quotes may come from anywhere
            log.print(traceback.format_exc().rstrip(), soft_wrap=True)
        else:
            error(message)
        sys.exit(1)


def _message(problem: Exception) -> str | None:
    """One line for what the user can mend, None for anything else."""
    if isinstance(problem, InputError | VerificationError):
        return str(problem)
    if isinstance(problem, OSError) and problem.errno in (errno.ENAMETOOLONG, errno.ELOOP):
        return f"no file can be called {str(problem.filename)[:60]!r}... ({problem.strerror}). Use another name."
    return disk_problem(problem) if isinstance(problem, OSError) else None


if __name__ == "__main__":
    main()
