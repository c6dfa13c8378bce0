"""The equations of second order against torch.func in float64, by hand, and as they are printed."""

import itertools

import pytest
import torch
from torch.func import grad, hessian, jacrev, jvp
from torch.nn import functional as F

from torch_manual_bp.equations import ACTIVATIONS, LOSSES, SECOND_ORDER, SYMBOLS, second_order, table
from torch_manual_bp.equations.indices import by_index

PARAMETERS = ("w1", "b1", "w2", "b2")
WITHIN = ("x", "z", "h", "o")
BIASES = list(itertools.product((True, False), repeat=2))
EXACT = 1e-11
TORCHS_LOSSES = {
    "cross_entropy": F.cross_entropy,
    "mse": lambda o, y: (o - y).square().mean(),  # (mse_loss has no forward mode over its backward for a zero tangent)
    "bce_with_logits": F.binary_cross_entropy_with_logits,
}


def problem(loss, hidden_bias=True, output_bias=True, decay=0.3, B=5, d=3, h=4, q=2):
    shapes = {"w1": (h, d), "b1": (h,), "w2": (q, h), "b2": (q,)}
    there = [name for name in PARAMETERS if {"b1": hidden_bias, "b2": output_bias}.get(name, True)]
    values = {name: torch.randn(shapes[name], dtype=torch.float64) for name in there}
    values |= {f"t{name}": torch.randn(shapes[name], dtype=torch.float64) for name in there}
    y = torch.randint(q, (B,)) if loss == "cross_entropy" else torch.rand(B, q, dtype=torch.float64)
    return values | {"x": torch.randn(B, d, dtype=torch.float64), "y": y, "weight_decay": decay}


def network(values, activation, loss):
    """z, h, o and J as functions of the parameters and of what is added to x, z, h and o."""
    module = ACTIVATIONS[activation].module
    phi = module() if module else lambda z: F.relu(z).square()

    def forward(p):
        z = F.linear(values["x"] + p["x"], p["w1"], p.get("b1")) + p["z"]
        h = phi(z) + p["h"]
        return {"z": z, "h": h, "o": F.linear(h, p["w2"], p.get("b2")) + p["o"]}

    def L(o):
        return TORCHS_LOSSES[loss](o, values["y"])

    def J(p):
        return L(forward(p)["o"]) + values["weight_decay"] / 2 * (p["w1"].square().sum() + p["w2"].square().sum())

    return forward, L, J


def point(values):
    sizes = {"x": values["x"].shape[1], "z": len(values["w1"]), "h": len(values["w1"]), "o": len(values["w2"])}
    nothing = {name: torch.zeros(len(values["x"]), size, dtype=torch.float64) for name, size in sizes.items()}
    return nothing | {name: values[name] for name in PARAMETERS if name in values}


def rows(block):
    """(B,·,B,·) as (B,·,·): rows do not meet."""
    at = torch.arange(len(block))
    return block[at, :, at]


def diagonal(block):
    n = block.ndim // 2
    side = block.shape[:n].numel()
    return block.reshape(side, side).diagonal().reshape(block.shape[:n])


def by_torch(values, activation, loss):
    """All of second order by torch.func, by the table's names."""
    forward, L, J = network(values, activation, loss)
    at = point(values)
    there = [name for name in PARAMETERS if name in values]
    way = {name: values[f"t{name}"] if name in there else torch.zeros_like(at[name]) for name in at}
    H, o = hessian(J)(at), forward(at)["o"]
    jacobian, S = jacrev(lambda p: forward(p)["o"])(at), hessian(L)(o)
    B, q = o.shape

    def ggn(a, b):
        left, right = (jacobian[name].reshape(B * q, -1) for name in (a, b))
        decay = (
            values["weight_decay"] * torch.eye(left.shape[1], dtype=torch.float64)
            if a == b and a in ("w1", "w2")
            else 0
        )
        return (left.T @ S.reshape(B * q, B * q) @ right + decay).reshape(*at[a].shape, *at[b].shape)

    p = torch.softmax(o, 1) if loss == "cross_entropy" else torch.sigmoid(o)
    found = {} if loss == "mse" else {"p": p}
    found |= {"mu": p @ values["w2"]} if loss == "cross_entropy" else {}
    to, through = jvp(forward, (at,), (way,))[1], jvp(grad(J), (at,), (way,))[1]
    found |= {f"t{name}": t for name, t in to.items()}
    found |= {f"td{name}": through[name] for name in (*there, "z", "h", "o")}
    sent = S.reshape(B * q, B * q) @ to["o"].flatten()
    for name in (*there, "z", "h"):
        decay = values["weight_decay"] * way[name] if name in ("w1", "w2") else 0
        found[f"gtd{name}"] = (sent @ jacobian[name].reshape(B * q, -1)).reshape(at[name].shape) + decay
    found |= {f"d2{name}": diagonal(H[name][name]) for name in (*there, "z", "h", "o")}
    found |= {f"gd2{name}": diagonal(ggn(name, name)) for name in ("w1", "b1", "z") if name in at}
    found["trace"] = sum(found[f"d2{name}"].sum() for name in there)
    found["gtrace"] = sum(diagonal(ggn(name, name)).sum() for name in there)
    found |= {f"d{a}d{b}": H[a][b] for i, a in enumerate(there) for b in there[i:]}
    for a, b in (("o", "o"), ("h", "o"), ("h", "h"), ("z", "z"), ("z", "o"), ("x", "x")):
        found[f"d{a}d{b}"] = rows(H[a][b])
    found["gdzdz"] = rows(ggn("z", "z"))
    for w, b, x, G, i in (("w1", "b1", values["x"], "gdzdz", 1), ("w2", "b2", forward(at)["h"], "dodo", 2)):
        units = torch.arange(len(at[w]))
        found[f"U{i}"] = H[w][w][units, :, units]
        found[f"A{i - 1}"], found[f"G{i}"] = x.T @ x / B, found[G].sum(0)
        if b in at:
            found[f"u{i}"], found[f"a{i - 1}"] = H[w][b][units, :, units], x.mean(0)
    of_outputs = hessian(lambda x: forward(at | {"x": x})["o"].sum(0))(at["x"])
    found["laplacian"] = torch.stack([rows(of).diagonal(dim1=1, dim2=2).sum(1) for of in of_outputs], 1)
    return found


def error(ours, theirs):
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-3))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("biases", BIASES, ids=str)
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_every_equation_equals_autograd(activation, loss, biases, decay):
    values, equations = problem(loss, *biases, decay), second_order(activation, loss, *biases)
    ours, torchs = equations.evaluate(values), by_torch(values, activation, loss)
    of_second_order = [e for e in equations if e.direction not in ("forward", "backward")]
    assert {e.symbol for e in of_second_order} == {*torchs}
    for equation in of_second_order:
        assert error(ours[equation.symbol], torchs[equation.symbol]) <= EXACT, equation.text


def test_equations_run_one_by_one():
    values, equations = problem("cross_entropy"), second_order("gelu")
    known, expected = dict(values), equations.evaluate(values)
    for equation in equations:
        known[equation.symbol] = equation(**{name: known[name] for name in equation.inputs})
        torch.testing.assert_close(known[equation.symbol], expected[equation.symbol], rtol=0, atol=0)


# --------------------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("biases", BIASES, ids=str)
def test_the_blocks_times_a_direction_are_the_product_with_it(loss, biases):
    values = problem(loss, *biases)
    there, found = [name for name in PARAMETERS if name in values], second_order("silu", loss, *biases).evaluate(values)
    for a in there:
        product = 0
        for b in there:
            first, second = sorted((a, b), key=PARAMETERS.index)
            block = found[f"d{first}d{second}"]
            way = values[f"t{b}"]
            turned = block if first == a else block.permute(*range(way.ndim, block.ndim), *range(way.ndim))
            product = product + torch.tensordot(turned, way, dims=way.ndim)
        assert error(product, found[f"td{a}"]) <= EXACT


def test_it_is_symmetric():
    values, equations = problem("cross_entropy"), second_order("tanh")
    found, other = equations.evaluate(values), problem("cross_entropy")
    ways = {f"t{name}": other[f"t{name}"] for name in PARAMETERS}
    across = equations.evaluate(values | ways)
    for g in ("", "g"):
        forth = sum((found[f"{g}td{name}"] * ways[f"t{name}"]).sum() for name in PARAMETERS)
        back = sum((across[f"{g}td{name}"] * values[f"t{name}"]).sum() for name in PARAMETERS)
        assert abs(forth - back) <= EXACT * abs(forth)
    for name in ("dodo", "dhdh", "dzdz", "gdzdz", "dxdx", "U1", "U2"):
        assert error(found[name], found[name].mT) <= EXACT
    for name in ("dw1dw1", "dw2dw2"):
        assert error(found[name], found[name].permute(2, 3, 0, 1)) <= EXACT


def test_the_gauss_newton_part_is_never_negative_and_is_not_all():
    values = problem("bce_with_logits", decay=0.0)
    found = second_order("relu", "bce_with_logits").evaluate(values)
    assert sum((found[f"gtd{name}"] * values[f"t{name}"]).sum() for name in PARAMETERS) >= 0
    assert found["gd2w1"].min() >= 0 and torch.equal(found["gdzdz"], found["dzdz"])  # relu bends nowhere
    assert error(found["gtdw1"], found["tdw1"]) > 0.01  # and still w1 and w2 meet


def test_a_misprint_is_found():
    """A formula for ∂²J/∂w1∂w2 that is often copied has j and l of the hidden layer exchanged."""
    values, equations = problem("cross_entropy"), second_order("tanh")
    x, h, dzdo, block = SYMBOLS["x"], SYMBOLS["h"], SECOND_ORDER["dzdo"], SECOND_ORDER["dw1dw2"]
    right = equations["dw1dw2"]
    own = right.terms[1]
    copied = by_index(block["jikl"], (x["bi"], h["bj"], dzdo["blk"]), own, direction="blocks")
    assert right.text == "dw1dw2_jikl = Σ_b x_bi h_bl dzdo_bjk + δ_jl Σ_b φ′(z)_bj x_bi do_bk"
    assert copied.text == "dw1dw2_jikl = Σ_b x_bi h_bj dzdo_blk + δ_jl Σ_b φ′(z)_bj x_bi do_bk"
    known = values | equations.evaluate(values)
    exact = by_torch(values, "tanh", "cross_entropy")["dw1dw2"]
    assert error(right.evaluate(known), exact) <= EXACT
    assert error(copied.evaluate(known), exact) > 0.1


# ------------------------------------------------------------------------------------- what is printed and counted


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        ("mse", "tz = x tw1ᵀ + 1 tb1ᵀ"),
        ("mse", "to = th w2ᵀ + h tw2ᵀ + 1 tb2ᵀ"),
        ("mse", "d2o_bk = 2/(Bq)"),
        ("bce_with_logits", "d2o = 1/(Bq) p - 1/(Bq) p ⊙ p"),
        ("bce_with_logits", "tdo = d2o ⊙ to"),
        ("cross_entropy", "tdo_bk = 1/B p_bk to_bk - 1/B Σ_n p_bn to_bn p_bk"),
        ("cross_entropy", "tdz = tdh ⊙ φ′(z) + dh ⊙ φ″(z) ⊙ tz"),
        ("cross_entropy", "tdw2 = tdoᵀ h + doᵀ th + λ tw2"),
        ("cross_entropy", "gtdw2 = tdoᵀ h + λ tw2"),
        ("cross_entropy", "d2h_bj = 1/B Σ_k w2_kj² p_bk - 1/B mu_bj²"),
        ("cross_entropy", "d2z = gd2z + dh ⊙ φ″(z)"),
        ("cross_entropy", "d2w1_ji = Σ_b x_bi² d2z_bj + λ"),
        ("cross_entropy", "trace = Σ_bij x_bi² d2z_bj + Σ_bj d2z_bj + Σ_bjk h_bj² d2o_bk + Σ_bk d2o_bk + λhd + λqh"),
        ("cross_entropy", "dodo_bkn = 1/B δ_kn p_bk - 1/B p_bk p_bn"),
        ("cross_entropy", "dzdz_bjl = gdzdz_bjl + δ_jl dh_bj φ″(z)_bj"),
        ("cross_entropy", "dw1dw1_jilm = Σ_b x_bi x_bm dzdz_bjl + λ δ_jl δ_im"),
        ("cross_entropy", "db1dw2_jkl = Σ_b h_bl dzdo_bjk + δ_jl Σ_b φ′(z)_bj do_bk"),
        ("cross_entropy", "dw2dw2_kjnl = Σ_b h_bj h_bl dodo_bkn + λ δ_kn δ_jl"),
        ("cross_entropy", "U1_jim = Σ_b x_bi x_bm d2z_bj + λ δ_im"),
        ("cross_entropy", "laplacian_bk = Σ_ji w1_ji² φ″(z)_bj w2_kj"),
    ],
)
def test_text(loss, text):
    assert second_order("tanh", loss)[text.split(" ", 1)[0].split("_")[0]].text == text


@pytest.mark.parametrize(
    ("symbol", "latex"),
    [
        ("tdw1", r"\frac{\partial \dot{J}}{\partial \mathbf{W}^{(1)}} = "
                 r"{\frac{\partial \dot{J}}{\partial \mathbf{z}}}^\top\,\mathbf{x} + \lambda \dot{\mathbf{W}^{(1)}}"),
        ("d2w1", r"\frac{\partial^2 J}{\partial (\mathbf{W}^{(1)}_{ji})^{2}} = "
                 r"\sum_{b} \mathbf{x}_{bi}^{2}\,\frac{\partial^2 J}{\partial \mathbf{z}_{bj}^{2}} + \lambda "),
        ("dzdz", r"\frac{\partial^2 J}{\partial \mathbf{z}_{bj}\,\partial \mathbf{z}_{bl}} = "
                 r"\frac{\partial^2 J}{\partial \mathbf{z}_{bj}\,\partial \mathbf{z}_{bl}}_{\operatorname{GN}} + "
                 r"\delta_{jl}\,\frac{\partial J}{\partial \mathbf{h}_{bj}}\,\phi''(\mathbf{z})_{bj}"),
        ("laplacian", r"\Delta\mathbf{o}_{bk} = "
                      r"\sum_{ji} (\mathbf{W}^{(1)}_{ji})^{2}\,\phi''(\mathbf{z})_{bj}\,\mathbf{W}^{(2)}_{kj}"),
    ],
)  # fmt: skip
def test_latex(symbol, latex):
    assert second_order("tanh")[symbol].latex == latex


def products(*symbols, loss="cross_entropy"):
    """FLOPs of all matrix products that lead to the symbols."""
    return str(second_order("tanh", loss).leading_to(*symbols).gemm_flops)


def test_flops_of_all_that_leads_to_something():
    gradient, product, diagonal = ([f"{d}{name}" for name in PARAMETERS] for d in ("d", "td", "d2"))
    assert products(*gradient) == "4Bdh + 6Bhq"  # z, dw1; o, dw2, dh
    assert products(*product) == "6Bdh + 16Bhq"  # eleven: z, o, dh, and eight of its own
    assert products(*diagonal) == "4Bdh + 10Bhq"  # z, d2w1; o, dh, mu, d2h, d2w2: two GEMMs more than a gradient
    assert products(*gradient, *diagonal) == "6Bdh + 12Bhq"  # d2w1; mu, d2h, d2w2 beside the gradient's
    assert products("trace") == "2Bdh + 8Bhq"  # z; o, dh, mu, d2h
    assert products("laplacian") == "2Bdh + 2Bhq"


def test_flops_of_single_equations():
    equations = second_order("tanh")
    assert str(equations["trace"].gemm_flops) == "0"
    assert str(equations["trace"].elementwise_flops) == "2Bd + 5Bh + 3Bq + 5"
    # squares and their sums, 2Bd and 2Bh; times curvature and summed, 2Bh and 2Bq; the biases', Bh and Bq; five +
    assert str(equations["dw1dw1"].gemm_flops) == "2Bddhh"
    assert str(equations["dw1dw1"].elementwise_flops) == "Bdd + dh"  # x_bi x_bm; λ on the diagonal
    assert str(equations["dzdz"].elementwise_flops) == "3Bh"  # φ″, times dh, added on the diagonal
    assert str(equations["dxdx"].gemm_flops) == "2Bddh + 2Bdhh"


def test_what_leads_to_a_symbol_needs_no_directions_and_gives_the_same():
    values, equations = problem("cross_entropy"), second_order("tanh")
    part = equations.leading_to("d2w1", "d2b1")
    assert [given.name for given in part.givens] == ["x", "y", "w1", "b1", "w2", "b2"]
    assert [g.name for g in equations.givens][6:] == ["tw1", "tb1", "tw2", "tb2"]
    assert torch.equal(part.evaluate(values)["d2w1"], equations.evaluate(values)["d2w1"])
    with pytest.raises(KeyError, match="'d2x'"):
        equations.leading_to("d2x")


def test_the_first_order_is_the_table():
    for biases in BIASES:
        equations = second_order("gelu", "mse", *biases)
        assert list(equations.first_order) == list(table("gelu", "mse", *biases))
        names = {name for equation in equations for name in equation.tensors}
        assert {"b1" in names, "tb1" in names} == {biases[0]} and {"b2" in names, "tb2" in names} == {biases[1]}


def test_each_rendering_mentions_each_input():
    for loss in LOSSES:
        for equation in second_order("gelu", loss):
            for term in equation.terms:
                for factor in term.factors:
                    assert factor.symbol.name in equation.text
                    assert factor.symbol.at("" if factor.function else factor.indices) in equation.latex


def test_printed_table_has_a_line_for_each_equation_and_a_total_for_each_kind():
    equations = second_order("gelu", "mse")
    text = str(equations)
    for equation in equations:
        assert f"{equation.text}  " in text
    totals = [line.strip() for line in text.splitlines() if "total" in line]
    kinds = ("first order", "loss", "tangent", "gauss-newton", "diagonal", "blocks", "units", "kronecker", "inputs")
    assert [line.split("  ")[0] for line in totals] == [f"total: {kind}" for kind in kinds]
    assert totals[2].split("  ", 1)[1].split() == ["4Bdh", "+", "12Bhq", "11Bh", "+", "4Bq", "+", "2dh", "+", "3hq"]


@pytest.mark.parametrize("argument", ["activation", "loss"])
def test_unknown_names_are_refused(argument):
    with pytest.raises(ValueError, match=f"second_order: {argument} must be one of .*got 'nonesuch'"):
        second_order(**{argument: "nonesuch"})
