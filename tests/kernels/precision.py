"""The rule of accuracy: float64 to 1e-12 of the definition, shorter dtypes with at most twice eager torch's error."""

import torch

FEW = 256  # elements, of which eager's largest error says little: it may be 0 by luck


def assert_accurate(got, truth, eager, terms=None):
    """Against the float64 truth; eager is torch's own answer in got's dtype.

    Twice eager's error holds of the tensor as a whole (its norm), and of the largest error but for half a step of the
    largest element: the rounding of an exact result. Where the result is a difference, terms are what is subtracted,
    and the half step is theirs. A few elements may be two steps off.
    """
    assert got.shape == truth.shape
    if got.numel() == 0:
        return
    error = got.double() - truth
    size = max(t.abs().amax().item() for t in (truth, terms) if t is not None and t.numel())
    if got.dtype == torch.float64:
        assert error.abs().amax().item() <= 1e-12 * max(size, 1.0)
        return
    own, step = eager.double() - truth, torch.finfo(got.dtype).eps * size
    if got.numel() < FEW:
        assert error.abs().amax().item() <= max(2 * own.abs().amax().item(), 2 * step)
        return
    assert error.abs().amax().item() <= 2 * own.abs().amax().item() + step / 2
    assert error.norm().item() <= 2 * own.norm().item() + step / 2


def assert_loss_accurate(L, truth, terms):
    """A loss is one number, so twice eager's error, which may be 0 by luck, is no measure of it.

    It is computed in float32 at least whatever the logits' dtype: four steps of the size of its terms are allowed.
    """
    steps = 4 * torch.finfo(L.dtype).eps * terms if L.dtype == torch.float32 else 1e-12 * terms
    assert abs(L.double() - truth).item() <= steps
