"""The program, what its commands have in common, and how it says what went wrong."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from .. import equations
from ..fit import Diverged

app = typer.Typer(
    name="torch_manual_bp",
    help="The one-hidden-layer MLP with its backward pass derived by hand.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ACTIVATIONS = ", ".join(equations.ACTIVATIONS)

Activation = Annotated[str, typer.Option(help=f"φ: {ACTIVATIONS}.")]
HiddenBias = Annotated[bool, typer.Option("--hidden-bias/--no-hidden-bias", help="Whether there is a b1.")]
OutputBias = Annotated[bool, typer.Option("--output-bias/--no-output-bias", help="Whether there is a b2.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]


@contextmanager
def plain_errors(debug: bool) -> Iterator[None]:
    """Turn an error that the user can mend into one line and an exit status."""
    try:
        yield
    except BrokenPipeError:  # the reader has seen enough; typer knows
        raise
    except (ValueError, TypeError, OSError, Diverged) as error:
        if debug:
            raise
        Console(stderr=True).print(f"[red]{escape(_in_words(error))}[/]", soft_wrap=True, highlight=False)
        raise typer.Exit(1 if isinstance(error, Diverged) else 2) from None
    except KeyboardInterrupt:
        Console(stderr=True).print("[yellow]Interrupted; no results were written.[/]")
        raise typer.Exit(130) from None


@contextmanager
def kernels_unmentioned() -> Iterator[None]:
    """Without the warning that there is no compiled extension: the command says so itself, or does without it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch_manual_bp computes in plain torch")
        yield


def _in_words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)
