from fractions import Fraction

import pytest
import torch

from torch_manual_bp.equations import SYMBOLS, Coefficient, Equation, Factor, Polynomial, Term, table

X, W1, DO, H, W2 = (SYMBOLS[name] for name in ("x", "w1", "do", "h", "w2"))
DW2 = Equation(
    SYMBOLS["dw2"],
    (Term((DO.T, Factor(H)), join="matmul"), Term((Factor(W2),), Coefficient(penalty=True))),
    "5.3.11",
    "backward",
)


def test_text_and_latex_of_one_equation():
    assert DW2.text == "dw2 = doᵀ h + λ w2"
    assert DW2.latex == (
        r"\frac{\partial J}{\partial \mathbf{W}^{(2)}} = "
        r"{\frac{\partial J}{\partial \mathbf{o}}}^\top\,\mathbf{h} + \lambda \mathbf{W}^{(2)}"
    )


def test_inputs_come_from_the_terms():
    assert DW2.inputs == ("do", "h", "w2", "weight_decay")


def test_value_worked_by_hand():
    do, h = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]])
    value = DW2(do=do, h=h, w2=torch.tensor([[10.0, 20.0]]), weight_decay=0.5)
    assert value.tolist() == [[1 * 3 + 2 * 5 + 5, 1 * 4 + 2 * 6 + 10]]


def test_flops_of_one_equation():
    assert str(DW2.gemm_flops) == "2Bhq"
    assert str(DW2.elementwise_flops) == "2hq"  # λ·w2, and the sum
    assert DW2.gemm_flops(B=2, h=3, q=5) == 60


def test_polynomial_prints_ranked_and_adds():
    p = Polynomial({("B", "h"): 1}) + Polynomial({("B", "d", "h"): 2}) + Polynomial({(): 1})
    assert str(p) == "2Bdh + Bh + 1"
    assert str(p + p) == "4Bdh + 2Bh + 2"


@pytest.mark.parametrize(
    ("coefficient", "text", "latex"),
    [
        (Coefficient(), "", ""),
        (Coefficient(Fraction(1, 2), penalty=True), "λ/2", r"\frac{\lambda }{2}"),
        (Coefficient(Fraction(2), over=("B", "q")), "2/(Bq)", r"\frac{2}{Bq}"),
        (Coefficient(Fraction(-1), over=("B",)), "1/B", r"\frac{1}{B}"),
    ],
)
def test_coefficients(coefficient, text, latex):
    assert (coefficient.text, coefficient.latex) == (text, latex)


def test_wrong_inputs_are_named():
    with pytest.raises(TypeError, match="dw2: expected the inputs do, h, w2, weight_decay; got h, do"):
        DW2(h=torch.ones(2, 2), do=torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"dw2: h must have shape \(2, h\), got \(3, 2\)"):
        DW2(do=torch.ones(2, 1), h=torch.ones(3, 2), w2=torch.ones(1, 2), weight_decay=0.0)


def test_each_rendering_mentions_each_input():
    for equation in table("gelu", "bce_with_logits"):
        for name, symbol in equation.tensors.items():
            assert name in equation.text
            assert symbol.latex in equation.latex
