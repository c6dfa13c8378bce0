"""SGD in the weights' own products, against its formula in float64."""

import itertools

import pytest
import torch

from torch_manual_bp import kernels

from .precision import assert_accurate

B, D, H, Q = 37, 5, 9, 3
BIASES = list(itertools.product((True, False), repeat=2))
#            penalty, lr, weight_decay, momentum (not looked at)
HYPER = [[0.3, 0.5, 0.1, 0.0], [0.0, 0.25, 0.2, 0.0], [0.3, 0.125, 0.0, 0.0], [0.0, 0.5, 0.3, 0.0]]
FACTOR = 0.25


def sample(dtype, with_b1=True, with_b2=True):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    shapes = {"w1": (H, D), "b1": (H,), "w2": (Q, H), "b2": (Q,), "x": (B, D), "h": (B, H), "g": (B, Q), "dz": (B, H)}
    values = {name: torch.randn(shape).to(dtype) for name, shape in shapes.items()}
    values |= {"db1": torch.randn(H, dtype=wide), "db2": torch.randn(Q, dtype=wide)}
    hyper = [HYPER[0], *([HYPER[1]] if with_b1 else []), HYPER[2], *([HYPER[3]] if with_b2 else [])]
    for name, there in (("b1", with_b1), ("b2", with_b2)):
        if not there:
            values[name] = values[f"d{name}"] = None
    return values, torch.tensor(hyper, dtype=torch.float64)


def by_the_formula(values, dtype):
    v = {name: None if t is None else t.to(dtype) for name, t in values.items()}
    steps = zip(("w1", "b1", "w2", "b2"), HYPER, strict=True)
    gradients = {"w1": FACTOR * v["dz"].T @ v["x"], "b1": v["db1"], "w2": FACTOR * v["g"].T @ v["h"], "b2": v["db2"]}
    return {
        name: v[name] - lr * (gradients[name] + (penalty + weight_decay) * v[name])
        for name, (penalty, lr, weight_decay, _) in steps
        if v[name] is not None
    }


@pytest.mark.parametrize("biases", BIASES, ids=lambda biases: f"b1={biases[0]},b2={biases[1]}")
def test_the_formula(backend, dtype, biases):
    values, hyper = sample(dtype, *biases)
    truth, eager = by_the_formula(values, torch.float64), by_the_formula(values, dtype)
    absolute = {name: None if t is None else t.abs() for name, t in values.items()}
    against = {name: -t for name, t in absolute.items() if name in ("dz", "g", "db1", "db2") and t is not None}
    terms = by_the_formula(absolute | against, torch.float64)
    kernels.sgd_products_(**values, hyper=hyper, factor=FACTOR)
    for name, expected in truth.items():
        if dtype == torch.float32:  # a product may add its B terms to W one after the other: this holds for any order
            error = (values[name] - expected).abs()
            assert (error <= (B + 2) * torch.finfo(dtype).eps * terms[name]).all()
        else:
            assert_accurate(values[name], expected, eager[name])


WRONG = {
    "x": lambda v: {"x": v["x"][:, :4].contiguous()},
    "rows of h": lambda v: {"h": v["h"][:9]},
    "g": lambda v: {"g": v["g"][:, :2].contiguous()},
    "dz": lambda v: {"dz": v["dz"].T.contiguous()},
    "w2": lambda v: {"w2": v["w2"].T.contiguous()},
    "db1 without b1": lambda v: {"b1": None},
    "b2 without db2": lambda v: {"db2": None},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_told_before_anything_is_written(backend, wrong):
    values, hyper = sample(torch.float32)
    values |= wrong(values)
    before = {name: None if t is None else t.clone() for name, t in values.items()}
    with pytest.raises((ValueError, RuntimeError), match="sgd_products_: "):
        kernels.sgd_products_(**values, hyper=hyper, factor=FACTOR)
    for name, tensor in values.items():
        assert tensor is None or torch.equal(tensor, before[name])


def test_opcheck(compiled):
    values, hyper = sample(torch.float32)
    torch.library.opcheck(compiled.sgd_products_.default, (*values.values(), hyper, FACTOR))
