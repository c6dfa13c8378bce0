"""Tangents against torch's forward mode, and as they are printed."""

import pytest
import torch
from graph.cases import BIASES, problem

from torch_manual_bp.equations import LOSSES, SYMBOLS, Table, table
from torch_manual_bp.equations.indices import Indexed, by_index
from torch_manual_bp.equations.mlp import LAMBDA
from torch_manual_bp.equations.tangent import slopes, tangent, tangents


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("biases", BIASES, ids=str)
@pytest.mark.parametrize("activation", ["tanh", "gelu", "softplus", "relu"])
def test_tangents_are_those_of_torchs_forward_mode(activation, loss, biases):
    equations = table(activation, loss, *biases)
    values = problem(loss, *biases)
    moving = [name for name in ("x", "w1", "b1", "w2", "b2") if name in values]
    directions = {name: torch.randn_like(values[name]) for name in moving}
    forward = [e.symbol for e in equations if e.direction == "forward"]

    def run(given):
        everything = equations.evaluate(values | given)
        return {name: everything[name] for name in forward}

    _, expected = torch.func.jvp(run, ({n: values[n] for n in moving},), (directions,))
    known = {**values, **equations.evaluate(values), **{f"t{name}": t for name, t in directions.items()}}
    derived = tangents(equations)
    assert [e.symbol for e in derived] == [f"t{name}" for name in forward]
    for equation in derived:
        known[equation.symbol] = equation.evaluate(known)
        wanted = expected[equation.symbol[1:]]
        assert (known[equation.symbol] - wanted).abs().max() <= 1e-12 * wanted.abs().max().clamp(min=1), equation.text


def test_a_function_without_a_derivative_in_the_table_is_refused():
    equations = table("tanh")
    backward = [e for e in equations if e.symbol != "dz"]
    with pytest.raises(ValueError, match=r"tangents: the table has no derivative of h = φ\(z\)"):
        tangents(Table(backward, "tanh", "cross_entropy"))
    with pytest.raises(ValueError, match=r"tangent: a derivative is not known in dz = dh ⊙ φ′\(z\)"):
        tangent(equations["dz"], {"z"}, slopes(equations))
    with pytest.raises(ValueError, match="tangent: nothing moves in dh = do w2"):
        tangent(equations["dh"], {"z"}, slopes(equations))


def test_a_term_for_each_factor_that_moves():
    equations = table("tanh")
    known = slopes(equations)
    assert tangent(equations["z"], {"x", "w1"}, known).text == "tz = tx w1ᵀ + x tw1ᵀ"
    assert tangent(equations["h"], {"z"}, known).text == "th = φ′(z) ⊙ tz"
    assert tangent(equations["db1"], {"dz"}, known).text == "tdb1 = tdzᵀ1"
    curved = {**known, ("φ′", "z"): known["φ", "z"]}  # any function: what it is called is what is seen
    assert tangent(equations["dz"], {"dh", "z"}, curved).text == "tdz = tdh ⊙ φ′(z) + dh ⊙ φ′(z) ⊙ tz"


def test_of_a_term_with_indices():
    x, z, w1 = (SYMBOLS[name] for name in ("x", "z", "w1"))
    equation = by_index(w1["ji"], (x["bi"], x["bi"], z["bj"]), Indexed((w1["ji"],), LAMBDA), direction="diagonal")
    derived = tangent(equation, {"x", "w1"}, {})
    assert derived.text == "tw1_ji = Σ_b tx_bi x_bi z_bj + Σ_b x_bi tx_bi z_bj + λ tw1_ji"
    values = {name: torch.randn(shape, dtype=torch.float64) for name, shape in
              (("x", (5, 3)), ("tx", (5, 3)), ("z", (5, 4)), ("w1", (4, 3)), ("tw1", (4, 3)))}  # fmt: skip

    def run(x, w1):
        return equation(x=x, w1=w1, z=values["z"], weight_decay=0.3)

    _, expected = torch.func.jvp(run, (values["x"], values["w1"]), (values["tx"], values["tw1"]))
    torch.testing.assert_close(derived.evaluate(values | {"weight_decay": 0.3}), expected)
