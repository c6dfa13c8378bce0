"""The second derivatives of a net: what its curvature is like, in numbers and a picture."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ..curvature.report import TITLES, caption, headline, notes, report, spectra_csv
from ..curvature.spectrum import EXACT_UP_TO
from ..equations import LOSSES
from ..fit import TASKS, load_labelled, load_model
from ..fit.folder import RunFolder
from ..fit.settings import DTYPES, check_device
from ..nn import MLP, Objective
from .app import ACTIVATIONS, Debug, app, kernels_unmentioned, plain_errors
from .training import Delimiter, Header

_MATRICES = {"both": (False, True), "hessian": (False,), "ggn": (True,)}
_SIZES = {"batch": 256, "inputs": 20, "hidden": 32, "outputs": 10}
_RANDOM = "Without a model:"


@app.command(name="curvature")
def show_curvature(
    model: Annotated[Path | None, typer.Argument(help="A model.pt that train wrote; else a random net.")] = None,
    data: Annotated[str, typer.Argument(help="Its data: 'digits', or a .csv, .tsv, .txt or .npz file.")] = "digits",
    label: Annotated[
        list[str], typer.Option(help="CSV: the label's column; if not given, the targets' names, or the last.")
    ] = [],  # noqa: B006
    delimiter: Delimiter = None,
    header: Header = None,
    batch: Annotated[int | None, typer.Option("--batch", "-B", help=f"{_RANDOM} rows B; 256.")] = None,
    inputs: Annotated[int | None, typer.Option("--inputs", "-d", help=f"{_RANDOM} width d; 20.")] = None,
    hidden: Annotated[int | None, typer.Option("--hidden", "-h", help=f"{_RANDOM} width h; 32.")] = None,
    outputs: Annotated[int | None, typer.Option("--outputs", "-q", help=f"{_RANDOM} width q; 10.")] = None,
    activation: Annotated[str | None, typer.Option(help=f"{_RANDOM} φ, relu: {ACTIVATIONS}.")] = None,
    loss: Annotated[str | None, typer.Option(help=f"{_RANDOM} cross_entropy: {', '.join(LOSSES)}.")] = None,
    hidden_bias: Annotated[
        bool | None, typer.Option("--hidden-bias/--no-hidden-bias", help=f"{_RANDOM} whether there is a b1; yes.")
    ] = None,
    output_bias: Annotated[
        bool | None, typer.Option("--output-bias/--no-output-bias", help=f"{_RANDOM} whether there is a b2; yes.")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(help="λ of J = L + λ/2 (‖W1‖² + ‖W2‖²); the model's own, or 0.")
    ] = None,
    matrix: Annotated[str, typer.Option(help=f"{', '.join(_MATRICES)}.")] = "both",
    count: Annotated[int | None, typer.Option("-k", help="How many of the largest eigenvalues; 6, or all n.")] = None,
    exact_up_to: Annotated[
        int, typer.Option(help="The most parameters n for which all eigenvalues are computed: 3n² numbers, n³ time.")
    ] = EXACT_UP_TO,
    tile_rows: Annotated[int | None, typer.Option(help="Rows of a tile, for data that do not fit at once.")] = None,
    dtype: Annotated[str, typer.Option(help="float64 or float32, in which fewer small eigenvalues are told from 0.")]
    = "float64",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of the random net and of the estimates.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder to write spectrum.png, spectrum.csv and curvature.json to.")]
    = Path("runs/curvature"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as data.")] = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Show the curvature of J at a trained net, or a random one: traces, eigenvalues, diagonals, condition."""
    of_random = {
        "batch": batch, "inputs": inputs, "hidden": hidden, "outputs": outputs, "activation": activation, "loss": loss,
        "hidden_bias": hidden_bias, "output_bias": output_bias,
    }  # fmt: skip
    with plain_errors(debug):
        from ..curvature.picture import spectrum_png  # needs matplotlib: found out before anything is computed

        given = {name: value for name, value in of_random.items() if value is not None}
        for name, value, known in (("matrix", matrix, _MATRICES), ("dtype", dtype, DTYPES)):
            if value not in known:
                raise ValueError(f"curvature: {name} must be one of {', '.join(known)}; got {value!r}")
        check_device(device, "curvature")
        if model is None:
            of_data = {"label": label or None, "delimiter": delimiter, "header": header}
            useless = [name for name, value in of_data.items() if value is not None]
            if useless:
                raise ValueError(f"curvature: without a model no data are read; got {', '.join(useless)}")
            case = _random_case(given, weight_decay or 0.0, seed, DTYPES[dtype])
        else:
            if given:
                raise ValueError(f"curvature: a model has its own sizes, φ and loss; got {', '.join(given)} beside it")
            rows = (data, label, delimiter, header)
            case = _trained_case(model, rows, weight_decay, DTYPES[dtype])
        n = sum(p.numel() for p in case.mlp.parameters())
        if count is not None and not 1 <= count <= n:
            raise ValueError(f"curvature: -k must be between 1 and n = {n}, got {count}")
        with RunFolder(out, "curvature.json") as folder:
            mlp, x, y = case.mlp.to(device), case.x.to(device), case.y.to(device)
            objective = Objective(mlp, case.loss, case.weight_decay, tile_rows=tile_rows)
            with Console(stderr=True).status("") as status, _enough_memory(), kernels_unmentioned():
                content, spectra = report(
                    case.name, objective, x, y, _MATRICES[matrix], count, exact_up_to, seed, status.update
                )
            text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            files = folder.write({
                "spectrum.png": spectrum_png(spectra, caption(content)),
                "spectrum.csv": spectra_csv(spectra),
                "curvature.json": text.encode(),
            })  # fmt: skip
    if as_json:
        print(text, end="")
        return
    _show(content)
    print(f"wrote {' '.join(map(str, files))}")


class Case(NamedTuple):
    """A net, its rows, and J's own settings."""

    name: str
    mlp: MLP
    x: Tensor
    y: Tensor
    loss: str
    weight_decay: float


def _random_case(given: dict[str, Any], weight_decay: float, seed: int, dtype: torch.dtype) -> Case:
    B, d, h, q = (given.get(name, size) for name, size in _SIZES.items())
    for name, size in zip(_SIZES, (B, d, h, q), strict=True):
        if size < 1:
            raise ValueError(f"curvature: {name} must be at least 1, got {size}")
    activation, loss = given.get("activation", "relu"), given.get("loss", "cross_entropy")
    biases = (given.get("hidden_bias", True), given.get("output_bias", True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mlp = MLP(d, h, q, activation, *biases, dtype=dtype)
        objective = Objective(mlp, loss, weight_decay)
        x = torch.randn(B, d, dtype=dtype)
        y = torch.randint(q, (B,)) if objective.loss.takes_classes else torch.rand(B, q, dtype=dtype)
    return Case("a random net on random data", mlp, x, y, loss, weight_decay)


def _trained_case(path: Path, rows: tuple[Any, ...], weight_decay: float | None, dtype: torch.dtype) -> Case:
    trained, (data, label, delimiter, header) = load_model(path), rows
    dataset = load_labelled(trained, data, label, delimiter=delimiter, header=header)
    if weight_decay is None:
        weight_decay = trained.weight_decay
    if weight_decay is None:
        raise ValueError(f"{path}: the model file does not say its weight_decay (λ): give --weight-decay")
    trained.mlp.to(dtype)
    return Case(f"{path} on {dataset.name}", trained.mlp, *trained.tensors(dataset), TASKS[trained.task].loss,
                weight_decay)  # fmt: skip


@contextmanager
def _enough_memory() -> Iterator[None]:
    """A ValueError where an allocation fails."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise ValueError(
            "curvature: not enough memory; give --tile-rows, or fewer of them, where rows do not fit, a smaller "
            "--exact-up-to where the matrix does not"
        ) from error


def _show(content: dict[str, Any]) -> None:
    console = Console()
    print(headline(content))
    print(f"J = {content['J']:.6g}, ‖∂J/∂θ‖ = {content['gradient_norm']:.4g}")
    found = {TITLES[key]: content[key] for key in TITLES if key in content}
    table = Table()
    for heading in ("", *found):
        table.add_column(heading, justify="right" if heading else "left")
    for words, cell in _ROWS.items():
        cells = [cell(data) for data in found.values()]
        if any(cells):
            table.add_row(words, *cells)
    console.print(table, highlight=False)
    entries = Table(title="diagonal")
    for heading in ("", "", "smallest", "median", "largest", "below 0"):
        entries.add_column(heading, justify="right" if heading else "left")
    for name, data in found.items():
        for parameter, of in data["diagonal"].items():
            numbers = (f"{of[which]:.3e}" for which in ("smallest", "median", "largest"))
            entries.add_row(name, parameter, *numbers, f"{of['negative']:.1%}")
    console.print(entries, highlight=False)
    for note in notes(content):
        print(note)


def _condition(data: dict[str, Any]) -> str:
    if not data["exact"]:
        return "not known"
    return "none above rounding" if data["condition"] is None else f"{data['condition']:.4g}"


def _largest(data: dict[str, Any]) -> str:
    return "not converged" if data["largest"] is None else "\n".join(_value(value, data) for value in data["largest"])


def _smallest(data: dict[str, Any]) -> str:
    return "not known" if data["smallest"] is None else _value(data["smallest"], data)


def _value(value: float, data: dict[str, Any]) -> str:
    return "0 within rounding" if abs(value) <= data["rounding"] else f"{value:.6g}"


def _number(found: dict[str, Any] | None) -> str:
    return "not known" if found is None else f"{'≥ ' if found['at_least'] else ''}{found['count']}"


_ROWS = {
    "trace": lambda data: f"{data['trace']:.6g}",
    "trace of the estimate": lambda data: f"{data['trace_of_the_estimate']:.6g}" if not data["exact"] else "",
    "largest eigenvalues": _largest,
    "smallest eigenvalue": _smallest,
    "eigenvalues below 0": lambda data: _number(data["negative"]),
    "null directions": lambda data: _number(data["null"]),
    "condition without them": _condition,
    "rounding": lambda data: f"{data['rounding']:.1e}",
}
