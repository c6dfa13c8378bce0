"""Training, prediction, and what they are made of."""

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__, equations
from ..fit import OPTIMIZERS, PATHS, TASKS, Settings, load, load_model, read_features
from .app import Activation, Debug, HiddenBias, OutputBias, app, kernels_unmentioned, plain_errors

_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(Settings)}
_PATHS = "; ".join(f"{path.name} is {path.step_call}" for path in PATHS.values())
_RESUME = (
    "Go on from the folder's checkpoint, after Ctrl-C or worse: the same command as before, with this at its end. "
    "More epochs than before train longer."
)

Delimiter = Annotated[str | None, typer.Option(help="CSV: what separates cells; found out if not given.")]
Header = Annotated[
    bool | None,
    typer.Option("--header/--no-header", help="CSV: whether the first line names the columns; found out if not given."),
]


@app.command()
def train(
    data: Annotated[str, typer.Argument(help="'digits', or a .csv, .tsv, .txt or .npz file.")] = "digits",
    label: Annotated[list[str], typer.Option(help="CSV: the label's column, by name or number from 0.")] = ["-1"],  # noqa: B006
    task: Annotated[str, typer.Option(help=f"What the labels are: {', '.join(TASKS)}.")] = "classification",
    drop: Annotated[list[str], typer.Option(help="CSV: a column to leave out; may be given again.")] = [],  # noqa: B006
    delimiter: Delimiter = None,
    header: Header = None,
    hidden: Annotated[int, typer.Option(help="Width h of the hidden layer.")] = _DEFAULTS["hidden"],
    activation: Activation = _DEFAULTS["activation"],
    hidden_bias: HiddenBias = True,
    output_bias: OutputBias = True,
    weight_decay: Annotated[float, typer.Option(help="λ of J = L + λ/2 (‖W1‖² + ‖W2‖²).")] = _DEFAULTS["weight_decay"],
    epochs: Annotated[int, typer.Option(help="How often each training row is seen.")] = _DEFAULTS["epochs"],
    batch_size: Annotated[int, typer.Option(help="Rows a step.")] = _DEFAULTS["batch_size"],
    optimizer: Annotated[str, typer.Option(help=f"{', '.join(OPTIMIZERS)}.")] = _DEFAULTS["optimizer"],
    lr: Annotated[float | None, typer.Option(help="Learning rate; 0.05 for sgd, else 0.001, if not given.")] = None,
    momentum: Annotated[float, typer.Option(help="Of sgd.")] = _DEFAULTS["momentum"],
    decoupled_decay: Annotated[float, typer.Option(help="AdamW's own; not a part of J.")] = 0.0,
    held_out: Annotated[float, typer.Option(help="Share of the rows kept from training.")] = _DEFAULTS["held_out"],
    seed: Annotated[int, typer.Option(help="Of split, start and batches.")] = _DEFAULTS["seed"],
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = _DEFAULTS["dtype"],
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = _DEFAULTS["device"],
    path: Annotated[str, typer.Option(help=f"How the derived net takes its steps. {_PATHS}.")] = "step",
    threads: Annotated[int | None, typer.Option(help="Of the CPU; one for a small net if not given.")] = None,
    compare: Annotated[bool, typer.Option(help="Train the same net by autograd beside it.")] = True,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; runs/NAME if not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help=_RESUME)] = False,
    debug: Debug = False,
) -> None:
    """Train on the digits or on your own data, beside the same net by autograd, and write what came of it."""
    with plain_errors(debug):
        from ..fit import job  # needs matplotlib

        settings = Settings(
            hidden, activation, hidden_bias, output_bias, weight_decay, epochs, batch_size, optimizer, lr, momentum,
            decoupled_decay, held_out, seed, dtype, device, path,
        )  # fmt: skip
        dataset = load(data, label, task, drop=drop, delimiter=delimiter, header=header)
        with kernels_unmentioned():  # the job names them in its first lines
            outcome = job.run(dataset, settings, out, compare, threads=threads, resume=resume)
    if outcome.interrupted:
        raise typer.Exit(130)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A model.pt that train wrote.")],
    data: Annotated[Path, typer.Argument(help="A CSV file with the model's features.")],
    out: Annotated[Path | None, typer.Option(help="CSV file to write; standard output if not given.")] = None,
    delimiter: Delimiter = None,
    header: Header = None,
    debug: Debug = False,
) -> None:
    """Predict each row of a CSV file: the class and the probabilities, or the targets."""
    with plain_errors(debug):
        trained = load_model(model)
        values = trained.predict(read_features(data, trained.features, delimiter, header))
        rows = [list(map(repr, row)) for row in values.tolist()]
        head = [f"p({name})" for name in trained.outputs] if trained.task != "regression" else list(trained.outputs)
        if trained.task == "classification":
            head.insert(0, "prediction")
            rows = [[trained.outputs[k], *row] for k, row in zip(values.argmax(1), rows, strict=True)]
        with out.open("w", encoding="utf-8", newline="") if out else _standard_output() as file:
            csv.writer(file, lineterminator="\n").writerows([head, *rows])


@app.command(name="equations")
def show_equations(
    activation: Activation = "relu",
    loss: Annotated[str, typer.Option(help=f"{', '.join(task.loss for task in TASKS.values())}.")] = "cross_entropy",
    hidden_bias: HiddenBias = True,
    output_bias: OutputBias = True,
    second_order: Annotated[bool, typer.Option("--second-order", help="Second derivatives as well.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="As a LaTeX block.")] = False,
    debug: Debug = False,
) -> None:
    """Print every equation, forward and backward, with shapes and FLOPs."""
    with plain_errors(debug):
        make = equations.second_order if second_order else equations.table
        table = make(activation, loss, hidden_bias, output_bias)
        print(table.latex if latex else table)


@app.command()
def info() -> None:
    """Print versions, the kernels in use, and the number of threads."""
    from ..fit.report import environment

    for name, value in {"torch_manual_bp": __version__, **environment()}.items():
        print(f"{name:16} {value}")


@contextmanager
def _standard_output() -> Iterator[Any]:
    yield sys.stdout
