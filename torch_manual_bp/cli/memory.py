"""How many bytes a net takes: planned, and measured."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from ..memory import plan, plan_stages
from ..memory.budget import bytes_of
from ..memory.plan import PATHS
from ..memory.planned import Plan
from ..memory.setting import OPTIMIZERS
from ..nn import MLP
from ..pipeline.orders import ORDERS
from .app import Activation, Debug, HiddenBias, OutputBias, app, kernels_unmentioned, plain_errors

Batch = Annotated[int, typer.Option("--batch", "-B", help="Rows B of a batch.")]
Inputs = Annotated[int, typer.Option("--inputs", "-d", help="Width d of the inputs.")]
Hidden = Annotated[int, typer.Option("--hidden", "-h", help="Width h of the hidden layer.")]
Outputs = Annotated[int, typer.Option("--outputs", "-q", help="Width q of the outputs.")]
Loss = Annotated[str, typer.Option(help="cross_entropy, mse or bce_with_logits.")]
WeightDecay = Annotated[float, typer.Option(help="λ of J = L + λ/2 (‖W1‖² + ‖W2‖²).")]
Device = Annotated[str, typer.Option(help="cpu, or cuda, which need not be there.")]
Budget = Annotated[str | None, typer.Option(help="Does it fit, and if not, what would: 8GB, 512MiB, …")]
AsJson = Annotated[bool, typer.Option("--json", help="As data.")]
DType = Annotated[str, typer.Option(help="float64, float32, bfloat16 or float16.")]


@app.command(name="plan")
def show_plan(
    batch: Batch, inputs: Inputs, hidden: Hidden, outputs: Outputs,
    path: Annotated[str, typer.Option(help=f"{', '.join(PATHS)}.")] = "autograd",
    activation: Activation = "relu",
    loss: Loss = "cross_entropy",
    hidden_bias: HiddenBias = True,
    output_bias: OutputBias = True,
    weight_decay: WeightDecay = 0.0,
    optimizer: Annotated[str | None, typer.Option(help=f"{', '.join(OPTIMIZERS)}.")] = None,
    tile_rows: Annotated[str | None, typer.Option(help='Rows of a tile, or "auto".')] = None,
    save: Annotated[str, typer.Option(help="auto or input.")] = "auto",
    dtype: DType = "float32",
    autocast: Annotated[str | None, typer.Option(help="bfloat16 or float16.")] = None,
    device: Device = "cpu",
    budget: Budget = None,
    picture: Annotated[Path | None, typer.Option(help="A PNG file to draw the tensors over time to.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Say how many bytes training or prediction will take, tensor by tensor; nothing is run."""
    with plain_errors(debug):
        mlp = _mlp(inputs, hidden, outputs, activation, hidden_bias, output_bias, save, dtype)
        planned = plan(
            mlp, batch, path=path, loss=loss, weight_decay=weight_decay, optimizer=optimizer,
            tile_rows=int(tile_rows) if tile_rows is not None and tile_rows.isdecimal() else tile_rows,
            autocast=None if autocast is None else _dtype(autocast), device=device,
        )  # fmt: skip
        limit = None if budget is None else bytes_of(budget)
        if picture is not None:
            planned.save_picture(picture)
        _show([planned], limit, as_json)


@app.command(name="plan-stages")
def show_stages(
    batch: Batch, inputs: Inputs, hidden: Hidden, outputs: Outputs,
    microbatches: Annotated[int, typer.Option("--microbatches", "-M", help="Into how many a batch is cut.")],
    schedule: Annotated[str, typer.Option(help=f"{', '.join(ORDERS)}.")] = "1f1b",
    activation: Activation = "relu",
    loss: Loss = "cross_entropy",
    hidden_bias: HiddenBias = True,
    output_bias: OutputBias = True,
    weight_decay: WeightDecay = 0.0,
    optimizer: Annotated[str | None, typer.Option(help=f"{', '.join(OPTIMIZERS)}.")] = None,
    dtype: DType = "float32",
    device: Device = "cpu",
    budget: Budget = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Say how many bytes each of two devices will take, the layers split over them as a pipeline."""
    with plain_errors(debug):
        mlp = _mlp(inputs, hidden, outputs, activation, hidden_bias, output_bias, "auto", dtype)
        plans = plan_stages(
            mlp, batch, microbatches, schedule, loss=loss, weight_decay=weight_decay, optimizer=optimizer, device=device
        )
        _show(plans, None if budget is None else bytes_of(budget), as_json)


@app.command()
def profile(
    batch: Batch = 1024, inputs: Inputs = 784, hidden: Hidden = 256, outputs: Outputs = 10,
    activation: Activation = "relu",
    loss: Loss = "cross_entropy",
    hidden_bias: HiddenBias = True,
    output_bias: OutputBias = True,
    weight_decay: WeightDecay = 0.0,
    dtype: DType = "float32",
    out: Annotated[Path, typer.Option(help="Folder to write pictures and report to.")] = Path("runs/memory"),
    with_trace: Annotated[bool, typer.Option("--trace", help="Traces for TensorBoard, too, of each path.")] = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Run each path on random data, and show its memory as it was planned and as it was measured."""
    from ..memory.profile import profiled, traces, write

    with plain_errors(debug):
        mlp = _mlp(inputs, hidden, outputs, activation, hidden_bias, output_bias, "auto", dtype)
        setting = plan(mlp, batch, loss=loss, weight_decay=weight_decay).setting
        with kernels_unmentioned():  # a note below says it
            rows = list(profiled(setting))
            files = write(setting, rows, out)
            if with_trace:
                files += traces(setting, out / "trace")
    table = Table(title=f"bytes above parameters and batch, at the peak\n{setting.net} · {setting.loss.name}")
    for column in ("", "planned", "measured", "in the sizes of the net"):
        table.add_column(column, justify="right" if column in ("planned", "measured") else "left")
    for row in rows:
        mark = "" if row.agrees else " ≠"
        table.add_row(row.way, f"{row.plan.call_bytes:,}{mark}", f"{row.measurement.peak_bytes:,}", row.plan.formula)
    console = Console()
    console.print(table)
    for note in rows[-1].plan.notes:
        console.print(f"≠ {note}", highlight=False)
    for file in files:
        console.print(f"wrote {file}", highlight=False)


def _mlp(
    inputs: int, hidden: int, outputs: int, activation: str, hidden_bias: bool, output_bias: bool, save: str, dtype: str
) -> MLP:
    return MLP(inputs, hidden, outputs, activation, hidden_bias, output_bias, save, "meta", _dtype(dtype))


def _dtype(name: str) -> torch.dtype:
    names = ("float64", "float32", "bfloat16", "float16")
    if name not in names:
        raise ValueError(f"dtype must be one of {', '.join(names)}; got {name!r}")
    return getattr(torch, name)


def _as_data(planned: Plan) -> dict[str, object]:
    tensors = [asdict(t) | {"dtype": str(t.dtype).removeprefix("torch.")} for t in planned.tensors]
    totals = ("peak_bytes", "call_bytes", "left_bytes", "given_bytes", "total_bytes", "formula")
    return {"setting": str(planned.setting), **{name: getattr(planned, name) for name in totals}, "tensors": tensors}


def _show(plans: Sequence[Plan], limit: int | None, as_json: bool) -> None:
    """The plans, and exit status 1 where one is beyond the limit."""
    if as_json:
        data = [_as_data(planned) for planned in plans]
        print(json.dumps(data if len(data) > 1 else data[0], indent=2, ensure_ascii=False))
    else:
        print(*plans, sep="\n\n\n")
    if limit is None:
        return
    for planned in [] if as_json else plans:
        print(f"\n{planned.total_bytes:,} bytes of {limit:,}: {'fits' if planned.fits(limit) else 'does not fit'}")
        if not planned.fits(limit) and planned.setting.path != "pipeline":
            print(*planned.advice(limit) or ("nothing that is known here makes it smaller",), sep="\n")
    if not all(planned.fits(limit) for planned in plans):
        raise typer.Exit(1)
