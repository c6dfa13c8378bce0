import pytest
import torch

from torch_manual_bp.verify import Finding
from torch_manual_bp.verify.finding import agree, compare, holds, same_bits, skipped

EPS = torch.finfo(torch.float32).eps
TRUTH = torch.tensor([1.0, 2.0, -4.0], dtype=torch.float64)


def off(error):
    """An answer with one element off by this part of the largest."""
    return TRUTH + torch.tensor([0.0, 4.0 * error, 0.0])


RULE = {
    "twice eager's error and half a step": (torch.float32, 20.4e-7, 1e-6, True),
    "more than twice eager's": (torch.float32, 20.9e-7, 1e-6, False),
    "eager right by luck: two steps and a half are owed": (torch.float32, 2.4 * EPS, 0.0, True),
    "eager right by luck: not more": (torch.float32, 2.6 * EPS, 0.0, False),
    "float64: whatever eager does": (torch.float64, 2e-12, 1e-6, False),
    "float64: close": (torch.float64, 0.9e-12, 0.0, True),
}


@pytest.mark.parametrize(("dtype", "error", "eager", "ok"), RULE.values(), ids=RULE)
def test_the_rule(dtype, error, eager, ok):
    found = compare("a", dtype, off(error), off(eager), TRUTH)
    assert found.ok == ok and found.error == pytest.approx(error, rel=1e-3)


def test_more_steps_are_owed_where_more_roundings_are_made():
    assert not compare("a", torch.float32, off(9 * EPS), TRUTH, TRUTH).ok
    assert compare("a", torch.float32, off(8.4 * EPS), TRUTH, TRUTH, steps=4).ok
    assert not compare("a", torch.float32, off(8.6 * EPS), TRUTH, TRUTH, steps=4).ok


def test_nan_and_a_wrong_shape_do_not_hold():
    assert not compare("a", torch.float64, TRUTH * torch.nan, TRUTH, TRUTH).ok
    wrong = compare("a", torch.float64, TRUTH[:2], TRUTH, TRUTH)
    assert not wrong.ok and wrong.note == "shape (2,), expected (3,)"


def test_errors_are_relative_to_a_size_where_one_is_given():
    assert compare("a", torch.float64, off(1e-11), TRUTH, TRUTH, size=4e3).error == pytest.approx(1e-14, rel=1e-2)
    assert agree("a", off(1e-3), TRUTH, 2e-3).ok and not agree("a", off(1e-3), TRUTH, 0.9e-3).ok
    assert agree("a", off(1e-3), TRUTH, 1e-5, size=4e3).ok


def test_bits():
    a = torch.tensor([1.0, torch.nan])
    assert same_bits("a", a, a.clone()).ok
    assert same_bits("a", a[0], a[0].clone()).ok
    other = torch.tensor([1.0 + EPS, torch.nan])
    assert not same_bits("a", a, other).ok and not same_bits("a", a[:1], a).ok
    assert not same_bits("a", torch.tensor(0.0), torch.tensor(-0.0)).ok


def test_outcomes():
    assert [f.outcome for f in (holds("a", True), holds("a", False, "so"), skipped("a", "why"))] == [
        "holds", "FAILED", "skipped",
    ]  # fmt: skip
    assert holds("a", True, "so") == Finding("a") and holds("a", False, "so").note == "so"
