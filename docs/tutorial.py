"""Backpropagation by hand, on real handwritten digits: read it from top to bottom, run it, change it.

    python docs/tutorial.py [folder for the pictures]

It needs scikit-learn for the digits (``pip install "torch_manual_bp[train]"``), and takes a few seconds.
"""

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits

import torch_manual_bp as tmb

out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/tutorial")
out.mkdir(parents=True, exist_ok=True)

# 1. The data: 1797 pictures of 8 × 8 pixels, each with the digit that it shows.
torch.manual_seed(0)
digits = load_digits()
x, y = torch.tensor(digits.data / 16.0), torch.tensor(digits.target)
train, held_out = torch.randperm(len(x)).split([1500, 297])
d, h, q, weight_decay = 64, 48, 10, 1e-3
w1, b1 = torch.randn(h, d).double() / 8, torch.zeros(h).double()
w2, b2 = torch.randn(q, h).double() / 7, torch.zeros(q).double()

# 2. The equations, as data. Each can be printed, and computed alone.
table = tmb.equations.table(activation="tanh", loss="cross_entropy")
values = {"x": x[train], "y": y[train], "w1": w1, "b1": b1, "w2": w2, "b2": b2, "weight_decay": weight_decay}
everything = table.evaluate(values)
print(f"{table['dw2']}, here {tuple(everything['dw2'].shape)}; J = {everything['J']:.4f}\n")


# 3. The backward pass by hand: one function for each equation, from what the equation names.
def do(o, y):
    """∂J/∂o = (softmax(o) − onehot(y)) / B."""
    p = torch.softmax(o, 1)
    p[range(len(y)), y] -= 1
    return p / len(y)


def dw2(do, h, w2, weight_decay):
    """∂J/∂W2 = (∂J/∂o)ᵀ h + λ W2."""
    return do.T @ h + weight_decay * w2


def db2(do):
    """∂J/∂b2: the sum over the batch."""
    return do.sum(0)


def dh(do, w2):
    """∂J/∂h = ∂J/∂o W2."""
    return do @ w2


def dz(dh, h):
    """∂J/∂z = ∂J/∂h ⊙ φ′(z), and tanh′ follows from h = tanh z."""
    return dh * (1 - h * h)


def dw1(dz, x, w1, weight_decay):
    """∂J/∂W1 = (∂J/∂z)ᵀ x + λ W1."""
    return dz.T @ x + weight_decay * w1


def db1(dz):
    """∂J/∂b1: the sum over the batch."""
    return dz.sum(0)


mine = {"do": do, "dw2": dw2, "db2": db2, "dh": dh, "dz": dz, "dw1": dw1, "db1": db1}
report = tmb.equations.check(mine, activation="tanh", loss="cross_entropy", weight_decay=0.3)
print(report, "\n")
assert report.ok

# … and what happens with a mistake: φ′ of z instead of h.
slip = tmb.equations.check({**mine, "dz": lambda dh, z: dh * (1 - z * z)}, activation="tanh", loss="cross_entropy")
print(slip, "\n")
assert slip.wrong == ("dz",)

# 4. Training with nothing but these functions.
X, Y, lr = x[train], y[train], 0.5
for _ in range(300):
    H = torch.tanh(X @ w1.T + b1)
    O = H @ w2.T + b2  # noqa: E741  (the chapter's o)
    dO = do(O, Y)
    dZ = dz(dh(dO, w2), H)
    gradients = dw1(dZ, X, w1, weight_decay), db1(dZ), dw2(dO, H, w2, weight_decay), db2(dO)
    for parameter, gradient in zip((w1, b1, w2, b2), gradients, strict=True):
        parameter -= lr * gradient


def accuracy(outputs):
    """Of the held-out digits."""
    return float((outputs.argmax(1) == y[held_out]).double().mean())


by_hand = accuracy(torch.tanh(x[held_out] @ w1.T + b1) @ w2.T + b2)

# 5. The same with the module: the same equations, fused; autograd differentiates nothing.
mlp = tmb.MLP(d, h, q, activation="tanh", dtype=torch.float64)
objective = tmb.Objective(mlp, loss="cross_entropy", weight_decay=weight_decay)
optimizer = torch.optim.SGD(mlp.parameters(), lr=lr)
for _ in range(300):
    J = objective.step(X, Y, optimizer)
print(f"held out: {by_hand:.1%} by hand, {accuracy(mlp(x[held_out])):.1%} by objective.step, J = {J:.4f}\n")
assert by_hand > 0.95 and accuracy(mlp(x[held_out])) > 0.95

# 6. What it looks like, and what it takes.
tmb.graph.draw(objective, batch=len(X), values={"x": X, "y": Y}).save(out / "graph.html")
plan = tmb.memory.plan(objective, len(X))
print(f"training keeps {plan.kept_bytes:,} bytes for the backward pass, and takes {plan.peak_bytes:,} at its peak:")
print(f"{plan.formula} bytes\n\nwrote {out / 'graph.html'}")
