"""A derivation in a file: checked, or handed out as an exercise."""

import sys
import tokenize
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import torch
import typer

from .. import equations
from ..equations.notation import LAYOUTS, VALUES
from .app import ACTIVATIONS, Activation, Debug, HiddenBias, OutputBias, app, plain_errors

_LOSSES = f"{', '.join(equations.LOSSES)}."
_NAME = "derivation"  # of the module that the file becomes
_FILE = "the file's, or"


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Python: functions dw2, dz, …; or backward; or an autograd.Function.")],
    activation: Annotated[str | None, typer.Option(help=f"φ: {ACTIVATIONS}; {_FILE} relu.")] = None,
    loss: Annotated[str | None, typer.Option(help=f"{_LOSSES[:-1]}; {_FILE} cross_entropy.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help=f"λ; {_FILE} 0.3.")] = None,
    hidden_bias: Annotated[
        bool | None, typer.Option("--hidden-bias/--no-hidden-bias", help=f"Whether there is a b1; {_FILE} yes.")
    ] = None,
    output_bias: Annotated[
        bool | None, typer.Option("--output-bias/--no-output-bias", help=f"Whether there is a b2; {_FILE} yes.")
    ] = None,
    layout: Annotated[str | None, typer.Option(help=f"{', '.join(LAYOUTS)}; {_FILE} rows.")] = None,
    values: Annotated[str | None, typer.Option(help=f"What is handed out: {', '.join(VALUES)}; {_FILE} torch.")] = None,
    debug: Debug = False,
) -> None:
    """Say which equation of a derivation is wrong, and how.

    Exit status: 0 where all is right, 1 where something is wrong or not filled in, 2 for bad input.

    A file may settle what is not given here: ACTIVATION, LOSS, WEIGHT_DECAY, HIDDEN_BIAS, OUTPUT_BIAS, LAYOUT, VALUES.
    """
    given = {
        "activation": activation, "loss": loss, "weight_decay": weight_decay, "hidden_bias": hidden_bias,
        "output_bias": output_bias, "layout": layout, "values": values,
    }  # fmt: skip
    with plain_errors(debug):
        names = _run(file)
        settings: dict[str, Any] = {name: names[name.upper()] for name in given if name.upper() in names}
        settings |= {name: value for name, value in given.items() if value is not None}
        report = equations.check(_derivation(names, file), **settings)
        print(report)
    if not report.ok:
        raise typer.Exit(1)


@app.command(name="exercise")
def hand_out(
    activation: Activation = "relu",
    loss: Annotated[str, typer.Option(help=_LOSSES)] = "cross_entropy",
    hidden_bias: HiddenBias = True,
    output_bias: OutputBias = True,
    forward: Annotated[bool, typer.Option("--forward", help="Ask for the forward equations as well.")] = False,
    out: Annotated[Path | None, typer.Option(help="File to write; standard output if not given.")] = None,
    debug: Debug = False,
) -> None:
    """Write a file with an empty function for each equation, to be filled in and checked."""
    with plain_errors(debug):
        text = equations.exercise(activation, loss, hidden_bias, output_bias, forward)
        if out is None:
            print(text, end="")
            return
        with out.open("x", encoding="utf-8") as file:  # never over somebody's answers
            file.write(text)
    print(f"wrote {out}")


def _run(file: Path) -> Mapping[str, Any]:
    """The names that a Python file defines; it may import what lies beside it.

    Raises:
        ValueError: it is not Python, or raises an error; the message says where.
    """
    module = sys.modules[_NAME] = ModuleType(_NAME)
    module.__file__ = str(file)
    sys.path.insert(0, str(file.resolve().parent))
    try:
        with tokenize.open(file) as opened:  # in the encoding that the file names
            source = opened.read()
        exec(compile(source, str(file), "exec"), module.__dict__)
    except SyntaxError as error:
        raise ValueError(_in_one_line(file, error.lineno, error.msg)) from error
    except OSError:
        raise
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        said = f"{type(error).__name__}: {error}"
        raise ValueError(_in_one_line(file, lines[-1] if lines else None, said)) from error
    return vars(module)


def _in_one_line(file: Path, line: int | None, said: str) -> str:
    return " ".join(f"{file}{f', line {line}' if line else ''}: {said}".split())


def _derivation(names: Mapping[str, Any], file: Path) -> Any:
    """What the file is about: the functions of equations, else its backward function, else its autograd.Function.

    Raises:
        ValueError: it defines none of them, or several Functions.
    """
    own = {name: value for name, value in names.items() if getattr(value, "__module__", None) == _NAME}
    functions: dict[str, Callable[..., Any]] = {
        name: value for name, value in own.items() if name in equations.SYMBOLS and not isinstance(value, type)
    }
    gradients = [name for name in functions if name.startswith("d")]
    classes = [v for v in own.values() if isinstance(v, type) and issubclass(v, torch.autograd.Function)]
    if "backward" in own and not gradients:
        return own["backward"]
    if classes and not gradients:
        if len(classes) > 1:
            raise ValueError(f"check: {file} must define one autograd.Function, got {len(classes)}")
        return classes[0]
    if not functions:
        raise ValueError(f"check: {file} must define functions named {_EXAMPLES}, or backward, or an autograd.Function")
    return functions


_EXAMPLES = ", ".join(e.symbol for e in equations.table() if e.direction == "backward")
