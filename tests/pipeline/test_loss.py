"""The loss of a batch as a sum over its microbatches, each over the normaliser of the whole."""

import pytest
import torch
from autograd.reference import error

from torch_manual_bp.equations import Loss
from torch_manual_bp.pipeline.loss import MicrobatchLoss

from .cases import LOSSES, B, batch, q, tensor_options


def loss_of(name):
    options = tensor_options(LOSSES[name])
    class_weight = options.pop("class_weight", None)
    return Loss(options.pop("loss", "cross_entropy"), **options), class_weight


def logits():
    torch.manual_seed(11)
    return torch.randn(B, q, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("rows", (1, 5, 7, 40))
@pytest.mark.parametrize("weighted", (False, True))
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_the_losss(on_device, name, weighted, rows):
    """Where the last microbatch is shorter, too."""
    loss, class_weight = loss_of(name)
    _, y, row_weight = batch(loss.name)
    row_weight = row_weight if weighted else None
    o = logits()
    expected = loss.value(o, y, class_weight, row_weight)
    (G,) = torch.autograd.grad(expected, o)

    microbatches = MicrobatchLoss(loss, class_weight, o.device)
    numbers = microbatches.begin(y, row_weight, rows, q, o.dtype, None)
    total, gradients = 0.0, []
    for part, number in zip(logits().detach().split(rows), numbers, strict=True):
        leaf = part.clone().requires_grad_()
        L = microbatches(leaf * 1, number)  # what is overwritten is a product that nobody else has
        L.backward()
        total += L.detach()
        gradients.append(leaf.grad)
    assert error(total, expected.detach()) <= 1e-12
    assert error(torch.cat(gradients), G) <= 1e-12
    microbatches.end()


def test_who_saved_the_logits_gets_an_error():
    """And not the gradient that stands in their place by then."""
    microbatches = MicrobatchLoss(Loss("mse"), None, torch.device("cpu"))
    microbatches.begin(torch.zeros(2, 3), None, 2, 3, torch.float32, None)
    leaf = torch.ones(2, 3, requires_grad=True)
    o = leaf.exp()  # saves its result
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        microbatches(o, 0).backward()
