"""A whole training step with AdamW and clipping of the gradient's norm, as policies and tabular nets are trained.

The decay is AdamW's own (decoupled), so the objective has no λ. scikit-learn's Adam neither clips nor decays: it does
less than the others.
"""

import importlib.util
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..nn import Objective
from .compiled import compile_whole, gradients_of
from .problem import Candidate, Problem
from .sgd_steps import COMPILED, EAGER, STEP

LEARNING_RATE, DECAY, CLIP_NORM = 1e-3, 1e-2, 1.0
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
NUMPY, SKLEARN = "NumPy by hand", "scikit-learn (Adam, no clipping)"


def adamw_candidates(problem: Problem, compiled: bool = True, backend: str = "inductor") -> Iterator[Candidate]:
    """The opponents and `Objective.step`; NumPy and scikit-learn on the CPU only, and only for relu.

    Args:
        problem: the net and its batch.
        compiled: whether torch.compile is among them (it needs a C++ compiler at run time).
        backend: torch.compile's.
    """
    yield eager(problem)
    if compiled:
        yield compiled_step(problem, backend)
    if problem.device == "cpu" and problem.activation == "relu":
        yield numpy_step(problem)
        if importlib.util.find_spec("sklearn"):
            yield sklearn_step(problem)
    yield lean_step(problem)


def eager(problem: Problem) -> Candidate:
    """Autograd, clip_grad_norm_, torch.optim.AdamW."""
    net, (x, y) = problem.eager_mlp(), problem.batch
    parameters = list(net.parameters())
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=DECAY)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()

    return Candidate(EAGER, step, parameters)


def compiled_step(problem: Problem, backend: str = "inductor") -> Candidate:
    """Loss, gradient, clipping and AdamW in one compiled graph."""
    gradients_of_loss = gradients_of(problem)

    def step(p: list[Tensor], m: list[Tensor], v: list[Tensor], t: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        L, gradients = gradients_of_loss(p, x, y)
        with torch.no_grad():
            norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
            clip = (CLIP_NORM / (norm + 1e-6)).clamp(max=1.0)
            step_size = LEARNING_RATE / (1 - BETA1 ** t[0].add_(1))
            root = (1 - BETA2 ** t[0]).sqrt()
            for parameter, gradient, first, second in zip(p, gradients, m, v, strict=True):
                g = gradient * clip
                first.lerp_(g, 1 - BETA1)
                second.mul_(BETA2).addcmul_(g, g, value=1 - BETA2)
                parameter.mul_(1 - LEARNING_RATE * DECAY).sub_(step_size * first / (second.sqrt() / root + EPSILON))
        return L

    parameters = list(problem.eager_mlp().parameters())
    m, v = ([torch.zeros_like(p, requires_grad=False) for p in parameters] for _ in range(2))
    t = [torch.zeros((), device=problem.device, dtype=torch.float64)]  # 1 − β2 has three digits less in float32
    return Candidate(COMPILED, compile_whole(step, problem, backend, parameters, m, v, t), parameters)


def numpy_step(problem: Problem) -> Candidate:
    """The same step written out for NumPy, all in place on one vector of parameters where that saves calls."""
    B = problem.shape[0]
    x, y = (tensor.numpy() for tensor in problem.batch)
    flat = nn.utils.parameters_to_vector(problem.mlp().parameters()).detach().numpy().copy()
    gradient, m, v = (np.zeros_like(flat) for _ in range(3))
    w1, b1, w2, b2 = _views(flat, problem)
    dw1, db1, dw2, db2 = _views(gradient, problem)
    rows, t = np.arange(B), 0

    def step() -> None:
        nonlocal flat, m, v, t
        t += 1
        hidden = np.maximum(x @ w1.T + b1, 0)
        o = hidden @ w2.T + b2
        o -= o.max(axis=1, keepdims=True)
        np.exp(o, out=o)
        o /= o.sum(axis=1, keepdims=True)
        o[rows, y] -= 1
        o /= B  # ∂L/∂o
        np.matmul(o.T, hidden, out=dw2)
        o.sum(axis=0, out=db2)
        dz = (o @ w2) * (hidden > 0)
        np.matmul(dz.T, x, out=dw1)
        dz.sum(axis=0, out=db1)
        norm = float(np.sqrt(gradient @ gradient))
        g = gradient * min(1.0, CLIP_NORM / (norm + 1e-6))
        m *= BETA1
        m += (1 - BETA1) * g
        v *= BETA2
        v += (1 - BETA2) * g * g
        denominator = np.sqrt(v) / float(np.sqrt(1 - BETA2**t)) + EPSILON
        flat *= 1 - LEARNING_RATE * DECAY
        flat -= LEARNING_RATE / (1 - BETA1**t) * m / denominator

    return Candidate(NUMPY, step, [torch.from_numpy(view) for view in (w1, b1, w2, b2)])


def _views(flat: np.ndarray, problem: Problem) -> list[np.ndarray]:
    """W1, b1, W2, b2 in one vector."""
    _, d, h, q = problem.shape
    w1, b1, w2, b2 = np.split(flat, np.cumsum([h * d, h, q * h]))
    return [w1.reshape(h, d), b1, w2.reshape(q, h), b2]


def sklearn_step(problem: Problem) -> Candidate:
    """scikit-learn's MLPClassifier, from an initialisation of its own."""
    from sklearn.neural_network import MLPClassifier

    x, y = (tensor.numpy() for tensor in problem.batch)
    _, _, h, q = problem.shape
    net = MLPClassifier(
        (h,), activation="relu", solver="adam", alpha=0.0, batch_size=len(x), learning_rate_init=LEARNING_RATE
    )
    net.partial_fit(x, y, classes=np.arange(q))
    return Candidate(SKLEARN, lambda: net.partial_fit(x, y), [])


def lean_step(problem: Problem) -> Candidate:
    """Ours: `Objective.step` as users call it."""
    mlp, (x, y) = problem.mlp(), problem.batch
    objective, parameters = Objective(mlp, "cross_entropy"), list(mlp.parameters())
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=DECAY)

    def step() -> None:
        objective.step(x, y, optimizer, clip_norm=CLIP_NORM)

    return Candidate(STEP, step, parameters, objective.release_workspace)
