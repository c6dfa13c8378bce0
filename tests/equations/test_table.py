"""The oracle against torch's autograd, in float64: the one place where the equations themselves are put to the test."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from torch_manual_bp.equations import ACTIVATIONS, LOSSES, table

LAMBDA = 0.3
TORCHS_LOSSES = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "bce_with_logits": F.binary_cross_entropy_with_logits,
}


def problem(loss, hidden_bias=True, output_bias=True, B=7, d=5, h=6, q=4):
    def randn(*shape):
        return torch.randn(*shape, dtype=torch.float64)

    values = {"x": randn(B, d), "w1": randn(h, d), "w2": randn(q, h), "weight_decay": LAMBDA}
    if hidden_bias:
        values["b1"] = randn(h)
    if output_bias:
        values["b2"] = randn(q)
    values["y"] = {"cross_entropy": lambda: torch.randint(q, (B,)), "mse": lambda: randn(B, q)}.get(
        loss, lambda: torch.rand(B, q, dtype=torch.float64)
    )()
    return values


def by_autograd(values, activation, loss):
    v = {k: t.clone().requires_grad_() if k in ("x", "w1", "b1", "w2", "b2") else t for k, t in values.items()}
    z = F.linear(v["x"], v["w1"], v.get("b1"))
    h = ACTIVATIONS[activation].phi(z)
    o = F.linear(h, v["w2"], v.get("b2"))
    L = {"cross_entropy": F.cross_entropy, "mse": F.mse_loss, "bce_with_logits": F.binary_cross_entropy_with_logits}[
        loss
    ](o, v["y"])
    s = LAMBDA / 2 * (v["w1"].square().sum() + v["w2"].square().sum())
    J = L + s
    wanted = {"do": o, "dh": h, "dz": z} | {f"d{k}": v[k] for k in ("x", "w1", "b1", "w2", "b2") if k in v}
    gradients = torch.autograd.grad(J, list(wanted.values()))
    return {"z": z, "h": h, "o": o, "L": L, "s": s, "J": J} | dict(zip(wanted, gradients, strict=True))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("hidden_bias", "output_bias"), list(itertools.product((True, False), repeat=2)))
def test_every_equation_equals_autograd(activation, loss, hidden_bias, output_bias):
    values = problem(loss, hidden_bias, output_bias)
    equations = table(activation, loss, hidden_bias, output_bias)
    ours, torchs = equations.evaluate(values), by_autograd(values, activation, loss)
    assert set(torchs) == set(ours) - {"r"}
    for symbol, expected in torchs.items():
        scale = expected.abs().max().clamp(min=1e-300)
        assert (ours[symbol] - expected).abs().max() <= 1e-13 * scale, symbol


def test_equations_run_one_by_one():
    values = problem("mse")
    known = dict(values)
    for equation in table("tanh", "mse"):
        known[equation.symbol] = equation(**{name: known[name] for name in equation.inputs})
    assert torch.equal(known["dw1"], table("tanh", "mse").evaluate(values)["dw1"])


def test_the_chapters_network_has_no_bias_and_five_matrix_products_beside_dx():
    chapter = table(hidden_bias=False, output_bias=False)
    assert [e.symbol for e in chapter] == ["z", "h", "o", "L", "s", "J", "do", "dw2", "dh", "dz", "dw1", "dx"]
    assert [given.name for given in chapter.givens] == ["x", "y", "w1", "w2"]
    assert str(chapter.gemm_flops) == "6Bdh + 6Bhq"
    without_dx = chapter.gemm_flops(B=2, d=3, h=5, q=7) - chapter["dx"].gemm_flops(B=2, d=3, h=5, q=7)
    assert without_dx == 4 * 2 * 3 * 5 + 6 * 2 * 5 * 7


def test_a_bias_adds_its_term_and_its_gradient():
    assert table(hidden_bias=True)["z"].text == "z = x w1ᵀ + 1 b1ᵀ"
    assert table(hidden_bias=True)["db1"].text == "db1 = dzᵀ1"


def test_the_chapters_labels():
    labels = {equation.symbol: equation.label for equation in table()}
    assert labels["dw2"] == "5.3.11" and labels["dz"] == "5.3.13" and labels["db1"] == "exercise 2"


def test_lower_precision_is_taken_to_float64():
    values = problem("cross_entropy")
    low = {k: v.bfloat16() if k != "y" and isinstance(v, torch.Tensor) else v for k, v in values.items()}
    high = {k: v.double() if k != "y" and isinstance(v, torch.Tensor) else v for k, v in low.items()}
    assert torch.equal(table().evaluate(low)["dw1"], table().evaluate(high)["dw1"])


def test_printed_table_has_a_line_for_each_equation():
    text = str(table("gelu", "mse"))
    for equation in table("gelu", "mse"):
        assert equation.text in text


def test_latex_aligns_each_equation():
    assert table().latex.count("&=") == len(table())


def test_bad_values_are_named():
    values = problem("cross_entropy")
    with pytest.raises(KeyError, match="w2 is missing"):
        table().evaluate({k: v for k, v in values.items() if k != "w2"})
    with pytest.raises(ValueError, match=r"table.evaluate: w2 must have shape \(q, 6\), got \(4, 5\)"):
        table().evaluate(values | {"w2": torch.randn(4, 5)})
    with pytest.raises(ValueError, match=r"labels in \[0, 4\), got 4"):
        table().evaluate(values | {"y": torch.full((7,), 4)})
    with pytest.raises(KeyError, match="'dw3'"):
        table()["dw3"]


@pytest.mark.parametrize("argument", ["activation", "loss"])
def test_unknown_names_are_refused(argument):
    with pytest.raises(ValueError, match=f"table: {argument} must be one of .*got 'nonesuch'"):
        table(**{argument: "nonesuch"})
