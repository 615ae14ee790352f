"""The ``lamina`` command: finds the subcommand, and turns errors into messages and exit codes.

Exit codes: 0 success, 1 a comparison or self-check failed, 2 wrong use or a LaminaError, 130
interrupted.  A subcommand's module is imported when it is called, so that ``lamina --help`` and
``lamina --version`` load nothing of the compiler.
"""

from __future__ import annotations

import importlib
import sys
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from lamina import __version__
from lamina.errors import BuildInterrupted, LaminaError

COMMANDS: Final = {
    "build": "Compile a model into a plan.",
    "run": "Run a plan or a model on arrays from files.",
    "bench": "Measure speed and memory, also next to other engines.",
    "profile": "Time each layer, with bytes, operations and distance from the device's limits.",
    "inspect": "Show layers, tactics with their alternatives, and memory.",
    "compare": "Check outputs, and every layer, against onnxruntime or the reference.",
    "doctor": "Say what this machine has, what is missing, and how to get it.",
    "trtexec": "Build and time engines with trtexec's options and output.",
    "demo": "Classify real handwritten digits in f32, bf16 and int8.",
}
"""Subcommands in the order of the help, with the first line of each one's docstring."""

EXIT_FAILED, EXIT_ERROR, EXIT_INTERRUPTED = 1, 2, 130


class Commands(TyperGroup):
    """The group of subcommands: lists them from the table, imports one when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return what the help needs of a command, without importing it."""
        help = COMMANDS.get(cmd_name)
        return None if help is None else TyperCommand(name=cmd_name, help=help)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the real command for a call."""
        if args[0] in COMMANDS:
            return args[0], load_command(args[0]), args[1:]
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept ``--debug`` anywhere on the line."""
        rest = [a for a in args if a != "--debug"]
        return super().parse_args(ctx, rest if len(rest) == len(args) else ["--debug", *rest])

    def invoke(self, ctx: Any) -> Any:
        """Run the command; errors of the user's making end in a message, not in a traceback."""
        try:
            return super().invoke(ctx)
        except LaminaError as e:
            if ctx.params.get("debug"):
                raise
            code = EXIT_INTERRUPTED if isinstance(e, BuildInterrupted) else EXIT_ERROR
            show_error(e)
            raise typer.Exit(code) from e
        except KeyboardInterrupt as e:
            typer.echo("interrupted; nothing was written", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from e


def load_command(name: str) -> Any:
    """Import the module of a subcommand and return the command."""
    module = importlib.import_module(f"lamina.cli.{name}")
    single = typer.Typer(add_completion=False)
    bare = name not in ("doctor", "demo", "trtexec")
    settings = getattr(module, "CONTEXT_SETTINGS", None)
    single.command(name, no_args_is_help=bare, context_settings=settings)(module.command)
    return typer.main.get_command(single)


def show_error(error: LaminaError) -> None:
    """Print an error on stderr: the fact in red, then where it happened and what to do."""
    first, *rest = str(error).splitlines() or [type(error).__name__]
    typer.secho(f"error: {first}", fg=typer.colors.RED, bold=True, err=True)
    for line in rest:
        typer.echo(line, err=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lamina {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=Commands, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False
)


@app.callback()
def lamina(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Compile trained networks into optimized, serialized engines and run them."""


def main() -> None:
    """Run the command line of this process."""
    sys.exit(app(prog_name="lamina"))
