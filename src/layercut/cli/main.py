"""The command line: ``layercut VERB ...``. Each verb is a thin skin over a public function, importing what it needs."""

from __future__ import annotations

import errno
import logging
import os
import sys
import traceback
from typing import Annotated

import typer

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
from layercut.cli.console import error, log, warn
from layercut.errors import InputError, VerificationError
from layercut.report.markup import printable
from layercut.runs.disk import disk_problem

app = typer.Typer(
    name="layercut",
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
