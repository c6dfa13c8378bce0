"""The chapter's five exercises: an answer in words, and commands that show it."""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .blocks import Block, Heading, Run, Text

_NET = "-d 784 -h 256 -q 10"
_SECOND_ORDER = """\
import torch, torch_manual_bp as tmb
torch.manual_seed(0)
mlp = tmb.MLP(20, 30, 10, "tanh").double()
parameters = list(mlp.parameters())
J = tmb.Objective(mlp)(torch.randn(64, 20).double(), torch.randint(10, (64,)))
gradient = torch.autograd.grad(J, parameters, create_graph=True)
g = torch.cat([part.flatten() for part in gradient])
v = torch.ones_like(g)
hv = torch.autograd.grad(g @ v, parameters)
n = len(g)
print(f"n = {n}: one product H v gives {sum(part.numel() for part in hv)} numbers in one pass more;")
print(f"all of H would be {n} of them, and {n**2:,} numbers to keep")"""
_CLOSED_FORMS = """\
from torch_manual_bp.equations import second_order
table = second_order("tanh")
for what, symbol in ("gradient", "d{}"), ("product H v", "td{}"), ("diagonal of H", "d2{}"):
    needed = table.leading_to(*map(symbol.format, ("w1", "b1", "w2", "b2")))
    print(f"{what:14} {needed.gemm_flops} FLOPs in products")"""


class Exercise(NamedTuple):
    """What is asked, in short, what is to be said, and the commands that show it."""

    asks: str
    answer: str
    commands: tuple[str, ...]


EXERCISES = (
    Exercise(
        "the shape of a gradient by a matrix",
        """
        The shape of the matrix: one derivative for each of its entries. So every ∂J/∂X in the table has X's shape,
        which is what makes `W ← W − η ∂J/∂W` possible, and the first thing to look at in a derivation of one's own.
        """,
        (
            'python -c "import torch; X = torch.randn(3, 4, requires_grad=True); (X @ X.T).trace().backward(); '
            'print(tuple(X.shape), tuple(X.grad.shape))"',
        ),
    ),
    Exercise(
        "a bias in the hidden layer: its graph, its forward and backward equations",
        """
        b1 is added to each row of z, so ∂J/∂b1 is the sum of ∂J/∂z over the rows; nothing else in the backward pass
        changes, since a bias is no factor of anything. λ does not act on it.
        """,
        (
            "python -m torch_manual_bp equations --no-output-bias",
            "python -m torch_manual_bp graph --no-output-bias",
        ),
    ),
    Exercise(
        "the memory of training and of prediction",
        """
        Prediction holds a layer's outputs until the next layer has read them. Training holds h (or z) of every row
        until the backward pass comes by, the gradient that flows back, and a gradient for each parameter; Ĝ takes
        the place of the logits, and ∂J/∂z that of ∂J/∂h. Per row that is 2h + 2q numbers against h + q.
        """,
        (
            f"python -m torch_manual_bp plan -B 1024 {_NET} --path predict",
            f"python -m torch_manual_bp plan -B 1024 {_NET} --path autograd",
        ),
    ),
    Exercise(
        "second derivatives: what becomes of the graph, and how long it takes",
        """
        The backward pass becomes a part of the graph, with every variable of it, and is differentiated in turn. The
        Hessian of n parameters has n² entries, and by way of the graph a pass for each of its n rows; a product with
        one vector is a single pass, about twice the work of a gradient. In closed form, as in the section on second
        derivatives, the whole Hessian is three large products, and its diagonal takes about as much as a gradient.
        Here the backward pass of the backward pass is written out by hand, too; `Curvature` has the closed forms.
        """,
        (
            f"python -c '{_SECOND_ORDER}'",
            f"python -c '{_CLOSED_FORMS}'",
            "python -m torch_manual_bp graph --tangent",
        ),
    ),
    Exercise(
        "a graph that is too large for one device: how to cut it, and against smaller minibatches",
        """
        Three cuts. By rows: tiles of rows one after another, the same gradient in the memory of a tile, at no cost
        that can be measured; or smaller minibatches, with fewer rows for each update and smaller, slower products.
        By layers, over two devices: each holds its own weights, gradients and optimizer's state, h goes over and
        ∂J/∂h comes back, and microbatches keep both at work. By data, over several devices that each hold the whole
        net: faster, but no smaller. So rows first, and layers where it is the parameters that are too many.
        """,
        (
            "python -m torch_manual_bp plan -B 65536 -d 784 -h 4096 -q 1000 --optimizer sgd --budget 1GB",
            "python -m torch_manual_bp plan-stages -B 65536 -d 784 -h 4096 -q 1000 -M 8 --optimizer sgd",
        ),
    ),
)


def exercises() -> Iterator[Block]:
    """Each with its answer, its commands, and what these print now."""
    for number, (asks, answer, commands) in enumerate(EXERCISES, 1):
        yield Heading(3, f"{number}. {asks[0].upper()}{asks[1:]}")
        yield Text(" ".join(answer.split()))
        for command in commands:
            yield Run(command, output_of(command))


def output_of(command: str) -> str:
    """What a command prints, in an empty folder, with two threads and a terminal of 100 columns.

    Raises:
        RuntimeError: it wrote to standard error and failed.
    """
    program, *arguments = shlex.split(command)
    assert program == "python"
    package = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "COLUMNS": "100", "NO_COLOR": "1", "PYTHONPATH": package,
                   "PYTHONIOENCODING": "utf-8"}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run(
            [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8"
        )
    if run.returncode > 1:  # 1: a budget that does not suffice
        raise RuntimeError(f"{command}: exit status {run.returncode}: {run.stderr.strip()}")
    return run.stdout
