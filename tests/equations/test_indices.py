"""Terms with indices: what they print, cost and give, worked by hand and against the same in matrices."""

from fractions import Fraction

import pytest
import torch

from torch_manual_bp.equations import SYMBOLS, Coefficient, Equation, Factor, Symbol, Term
from torch_manual_bp.equations.indices import Indexed, by_index
from torch_manual_bp.equations.terms import KRONECKER

X, W1, W2, Z, H, DO = (SYMBOLS[name] for name in ("x", "w1", "w2", "z", "h", "do"))
LAMBDA, HALF = Coefficient(penalty=True), Coefficient(Fraction(1, 2))
PAIRS = Symbol("a", ("h", "h"), r"\mathbf{a}")
INPUTS = Symbol("a", ("d", "d"), r"\mathbf{a}")
BLOCK = Symbol("a", ("h", "d", "h", "d"), r"\mathbf{a}")
NUMBER = Symbol("a", (), "a")
OF_ROWS = Symbol("a", ("B", "h", "d"), r"\mathbf{a}")


def made(lhs, *terms):
    return by_index(lhs, *terms, direction="blocks")


# equation, text, LaTeX of the right-hand side, FLOPs in products, FLOPs beside them
CASES = {
    "a matrix product": (
        made(W1["ji"], (Z["bj"], X["bi"])), "w1_ji = Σ_b z_bj x_bi",
        r"\sum_{b} \mathbf{z}_{bj}\,\mathbf{x}_{bi}", "2Bdh", "0",
    ),
    "squares, and the same number everywhere": (
        made(W1["ji"], (X["bi"], X["bi"], Z["bj"]), Indexed((), LAMBDA)), "w1_ji = Σ_b x_bi² z_bj + λ",
        r"\sum_{b} \mathbf{x}_{bi}^{2}\,\mathbf{z}_{bj} + \lambda ", "2Bdh", "Bd + dh",  # squares; + λ
    ),
    "a diagonal is added where it is": (
        made(PAIRS["jl"], (Z["bj"], H["bl"]), Indexed((KRONECKER["jl"], Z["bj"]), HALF)),
        "a_jl = Σ_b z_bj h_bl + 1/2 δ_jl Σ_b z_bj",
        r"\sum_{b} \mathbf{z}_{bj}\,\mathbf{h}_{bl} + \frac{1}{2}\delta_{jl}\sum_{b} \mathbf{z}_{bj}",
        "2Bhh", "Bh + 2h",  # Σ_b z_bj; 1/2; + on h places
    ),
    "λ on a diagonal": (
        made(INPUTS["im"], (X["bi"], X["bm"]), Indexed((KRONECKER["im"],), LAMBDA)), "a_im = Σ_b x_bi x_bm + λ δ_im",
        r"\sum_{b} \mathbf{x}_{bi}\,\mathbf{x}_{bm} + \lambda \delta_{im}", "2Bdd", "d",
    ),
    "factors are multiplied from left to right": (
        made(BLOCK["jilm"], (X["bi"], X["bm"], Z["bj"], H["bl"])), "a_jilm = Σ_b x_bi x_bm z_bj h_bl",
        r"\sum_{b} \mathbf{x}_{bi}\,\mathbf{x}_{bm}\,\mathbf{z}_{bj}\,\mathbf{h}_{bl}", "2Bddhh", "Bddh + Bdd",
    ),
    "a letter is summed as soon as nothing needs it": (
        made(NUMBER[""], (X["bi"], X["bi"], Z["bj"]), Indexed((), Coefficient(penalty=True, times=("h", "d")))),
        "a = Σ_bij x_bi² z_bj + λhd", r"\sum_{bij} \mathbf{x}_{bi}^{2}\,\mathbf{z}_{bj} + \lambda hd",
        "0", "2Bd + 2Bh + 1",  # squares and their sum in each row; times z, summed; +
    ),
    "a product of each row's, without a sum": (
        made(OF_ROWS["bji"], (Z["bj"], W1["ji"])), "a_bji = z_bj w1_ji",
        r"\mathbf{z}_{bj}\,\mathbf{W}^{(1)}_{ji}", "0", "Bdh",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("equation", "text", "latex", "products", "beside"), CASES.values(), ids=CASES)
def test_text_latex_and_flops(equation, text, latex, products, beside):
    assert equation.text == text
    assert equation.latex.split(" = ", 1)[1] == latex
    assert (str(equation.gemm_flops), str(equation.elementwise_flops)) == (products, beside)


def test_a_product_of_matrices_is_the_same_in_either_form():
    by_letters = made(W2["kj"], (DO["bk"], H["bj"]), Indexed((W2["kj"],), LAMBDA))
    of_matrices = Equation(
        W2, (Term((DO.T, Factor(H)), join="matmul"), Term((Factor(W2),), LAMBDA)), "", "backward"
    )  # fmt: skip
    values = {"do": torch.randn(5, 2), "h": torch.randn(5, 4), "w2": torch.randn(2, 4), "weight_decay": 0.3}
    torch.testing.assert_close(by_letters(**values), of_matrices(**values))
    assert by_letters.inputs == of_matrices.inputs == ("do", "h", "w2", "weight_decay")
    assert by_letters.gemm_flops == of_matrices.gemm_flops
    assert by_letters.elementwise_flops == of_matrices.elementwise_flops


def test_values_worked_by_hand():
    z, x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 10.0, 100.0], [0.0, 1.0, 2.0]])
    diagonal = made(PAIRS["jl"], (Z["bj"], Z["bl"]), Indexed((KRONECKER["jl"], Z["bj"]), HALF))
    assert diagonal(z=z).tolist() == [[1 + 9 + 2, 2 + 12], [2 + 12, 4 + 16 + 3]]
    traced = made(NUMBER[""], (X["bi"], X["bi"], Z["bj"]), Indexed((), Coefficient(penalty=True, times=("h", "d"))))
    assert traced(x=x, z=z, weight_decay=0.5) == 3 * 10101 + 7 * 5 + 0.5 * 2 * 3
    scaled = made(W1["ji"], Indexed((X["bi"], X["bi"], Z["bj"]), Coefficient(over=("B",))), Indexed((), LAMBDA))
    assert scaled(x=x, z=z, weight_decay=2.0).tolist() == [[2.5, 53.5, 5008.0], [3.0, 104.0, 10010.0]]


def test_what_no_factor_has_is_the_same_along_it():
    constant = made(Z["bj"], Indexed((W2["kj"], W2["kj"]), Coefficient(over=("B",))))
    w2, sizes = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), {"B": 2, "h": 2, "q": 2}
    assert torch.equal(constant.evaluate({"w2": w2}, sizes), torch.tensor([[5.0, 10.0], [5.0, 10.0]]))
    with pytest.raises(ValueError, match=r"z: no input has the size B: evaluate\(values, sizes\)"):
        constant(w2=w2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_it_is_computed_in_the_dtype_of_what_it_is_given(dtype):
    diagonal = made(PAIRS["jl"], (KRONECKER["jl"], Z["bj"]), Indexed((KRONECKER["jl"],), LAMBDA))
    assert diagonal(z=torch.ones(2, 3, dtype=dtype), weight_decay=1.0).dtype == dtype


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ((X["b"],), "x_b: 2 axes need as many letters, got 'b'"),
        ((X["bj"], Z["bj"]), "x_bj: j runs over d here and over h elsewhere"),
        ((Z["bj"], KRONECKER["jb"]), "δ_jb: must have two letters of one size"),
        ((Z["bj"], KRONECKER["jm"], H["bl"], KRONECKER["j"]), "δ_j: must have two letters of one size"),
    ],
    ids=["letters", "sizes", "δ of two sizes", "δ of one letter"],
)
def test_letters_that_do_not_fit_are_refused(factors, words):
    with pytest.raises(ValueError, match=words):
        made(PAIRS["jl"], factors)
