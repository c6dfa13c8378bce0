import pytest
import torch
from torch import nn
from torch.nn import functional as F

import torch_manual_bp as tmb

# What computes; what is refused is refused before it is asked where the tensors are.
on_each_device = pytest.mark.usefixtures("on_device")


def mlp(**options):
    return tmb.MLP(5, 6, 4, **options)


def batch():
    return torch.randn(3, 5), torch.tensor([0, 1, 3])


@on_each_device
def test_J_is_L_plus_s_and_biases_are_not_penalised():
    net, (x, y) = mlp(dtype=torch.float64), batch()
    with torch.no_grad():
        net.fc1.bias.fill_(100)
    J = tmb.Objective(net, weight_decay=0.5)(x.double(), y)
    s = 0.25 * (net.fc1.weight.square().sum() + net.fc2.weight.square().sum())
    torch.testing.assert_close(J, F.cross_entropy(net(x.double()), y) + s, rtol=1e-13, atol=0)


@on_each_device
def test_worked_by_hand():
    """d = h = 1, q = 2, identity: o = (2·3+1)·(1, −1), L = log(1 + e^{−14}), s = ½·0.1·(4 + 1 + 1)."""
    net = tmb.MLP(1, 1, 2, "identity", output_bias=False, dtype=torch.float64)
    with torch.no_grad():
        net.fc1.weight.fill_(2)
        net.fc1.bias.fill_(1)
        net.fc2.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    J = tmb.Objective(net, weight_decay=0.1)(torch.tensor([[3.0]]).double(), torch.tensor([0]))
    assert J.item() == pytest.approx(8.315283803e-07 + 0.3, rel=1e-12)
    J.backward()
    p = 8.315280276641327e-07  # softmax of the wrong class, 1 / (1 + e^14)
    assert net.fc2.weight.grad.flatten().tolist() == pytest.approx([-7 * p + 0.1, 7 * p - 0.1], rel=1e-12)
    assert net.fc1.weight.grad.item() == pytest.approx(3 * -2 * p + 0.2, rel=1e-12)
    assert net.fc1.bias.grad.item() == pytest.approx(-2 * p, rel=1e-9)


@on_each_device
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "bce_with_logits"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_dtype_of_J_and_of_gradients(dtype, loss, weight_decay):
    """J is a sum over rows: in bfloat16 it would be worth three digits."""
    net, x = mlp(dtype=dtype), torch.randn(3, 5).to(dtype)
    y = torch.tensor([0, 1, 3]) if loss == "cross_entropy" else torch.rand(3, 4).to(dtype)
    J = tmb.Objective(net, loss, weight_decay)(x, y)
    assert J.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) and J.shape == ()
    J.backward()
    assert {p.grad.dtype for p in net.parameters()} == {dtype}


@on_each_device
def test_float32_targets_for_half_precision():
    """Targets in data sets are float32 however the network is stored."""
    net, x, y = mlp(dtype=torch.bfloat16), torch.randn(3, 5).bfloat16(), torch.rand(3, 4)
    for loss, torchs in (("mse", F.mse_loss), ("bce_with_logits", F.binary_cross_entropy_with_logits)):
        torch.testing.assert_close(tmb.Objective(net, loss)(x, y), torchs(net(x).float(), y), rtol=2e-2, atol=1e-3)


def test_repr():
    shown = tmb.Objective(mlp(), "mse", 0.1, reduction="sum").extra_repr()
    assert shown == "loss='mse', weight_decay=0.1, reduction='sum'"


@on_each_device
def test_ignored_rows_count_for_nothing():
    net, (x, y) = mlp(), batch()
    J = tmb.Objective(net, ignore_index=3)
    torch.testing.assert_close(J(x, y), J(x[:2], y[:2]), rtol=1e-6, atol=0)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mlp": nn.Linear(5, 4)}, TypeError, "mlp must be a torch_manual_bp.MLP, got Linear; MLP.from_linears"),
        ({"loss": "hinge"}, ValueError, "loss must be one of cross_entropy, mse, bce_with_logits; got 'hinge'"),
        ({"loss": None}, ValueError, "loss must be one of .*; got None"),
        ({"reduction": "none"}, ValueError, "reduction must be one of mean, sum; got 'none'"),
        ({"weight_decay": -0.1}, ValueError, r"weight_decay must be finite and not negative, got -0\.1"),
        ({"weight_decay": float("nan")}, ValueError, "weight_decay must be finite and not negative, got nan"),
        ({"weight_decay": float("inf")}, ValueError, "weight_decay must be finite and not negative, got inf"),
        ({"label_smoothing": 1.5}, ValueError, r"label_smoothing must lie in \[0, 1\], got 1\.5"),
        ({"label_smoothing": float("nan")}, ValueError, r"label_smoothing must lie in \[0, 1\], got nan"),
        ({"loss": "mse", "label_smoothing": 0.1}, ValueError, "label_smoothing.* are not options of mse"),
        ({"loss": "mse", "ignore_index": 0}, ValueError, ".*ignore_index.* are not options of mse"),
        ({"loss": "bce_with_logits", "class_weight": torch.ones(4)}, ValueError,
         ".*class_weight are not options of bce"),
        ({"class_weight": torch.ones(5)}, ValueError, r"class_weight must have shape \(4,\), got \(5,\)"),
        ({"class_weight": torch.ones(4, dtype=torch.long)}, TypeError,
         "class_weight must be a floating-point tensor, got torch.int64"),
        ({"class_weight": [1.0] * 4}, TypeError, "class_weight must be a floating-point tensor, got list"),
        ({"class_weight": torch.ones(4, requires_grad=True)}, ValueError, "class_weight must not require a gradient"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_options(options, error, message):
    with pytest.raises(error, match=f"^Objective: {message}"):
        tmb.Objective(**{"mlp": mlp()} | options)


X, Y = torch.randn(3, 5), torch.tensor([0, 1, 3])
REFUSED = [
    ("cross_entropy", (X, torch.tensor([0, 4, 3])), ValueError,
     r"y must hold labels in \[0, 4\) or ignore_index -100; got 4 at row 1"),
    ("cross_entropy", (X, torch.tensor([0, 1, -1])), ValueError,
     r"y must hold labels in \[0, 4\) or ignore_index -100; got -1 at row 2"),
    ("cross_entropy", (X.view(3, 1, 5), torch.tensor([[0], [1], [7]])), ValueError, "got 7 at row 2"),
    ("cross_entropy", (X, Y.int()), TypeError,
     "y must hold class indices of dtype torch.int64 for cross_entropy, got torch.int32"),
    ("cross_entropy", (X, Y.float()), TypeError, "y must hold class indices of dtype torch.int64.*got torch.float32"),
    ("cross_entropy", (X, Y[:2]), ValueError,
     r"y must hold class indices of shape \(3,\) for cross_entropy, got \(2,\)"),
    ("cross_entropy", (X, Y[:, None]), ValueError, r"y must hold class indices of shape \(3,\).*got \(3, 1\)"),
    ("cross_entropy", (X, [0, 1, 3]), TypeError, "y must be a tensor, got list"),
    ("cross_entropy", (X, Y.to("meta")), ValueError, "y must be on x's device cpu, got meta"),
    ("mse", (X, torch.rand(3)), ValueError, r"y must hold targets of shape \(3, 4\) for mse, got \(3,\)"),
    ("mse", (X, torch.rand(3, 4).double()), TypeError,
     "y must have the logits' dtype torch.float32 for mse, got torch.float64"),
    ("bce_with_logits", (X, torch.ones(3, 4, dtype=torch.long)), TypeError,
     "y must have the logits' dtype torch.float32 for bce_with_logits, got torch.int64"),
    ("cross_entropy", (X, Y, torch.ones(2)), ValueError, r"row_weight must have shape \(3,\), got \(2,\)"),
    ("mse", (X, torch.rand(3, 4), torch.ones(3, 4)), ValueError, r"row_weight must have shape \(3,\), got \(3, 4\)"),
    ("cross_entropy", (X, Y, torch.ones(3, dtype=torch.bool)), TypeError,
     "row_weight must be a floating-point tensor, got torch.bool"),
    ("cross_entropy", (X, Y, torch.ones(3, requires_grad=True)), ValueError, "row_weight must not require a gradient"),
    ("cross_entropy", (X, Y, torch.ones(3, device="meta")), ValueError,
     "row_weight must be on x's device cpu, got meta"),
    ("cross_entropy", (X.long(), Y), TypeError, "x must have a floating-point dtype, got torch.int64"),
    ("cross_entropy", (X.double(), Y), TypeError, "w1 must have x's dtype torch.float64, got torch.float32"),
    ("cross_entropy", (X[:, :4], Y), ValueError, r"x must have shape \(..., 5\) to fit w1 \(6, 5\), got \(3, 4\)"),
    ("cross_entropy", (X.to("meta"), Y.to("meta")), ValueError, "w1 must be on x's device meta, got cpu"),
]  # fmt: skip


@pytest.mark.parametrize("hooked", [False, True], ids=["fused", "hooked"])
@pytest.mark.parametrize(("loss", "arguments", "error", "message"), REFUSED, ids=[f"{c[0]}: {c[3]}" for c in REFUSED])
def test_arguments(loss, arguments, error, message, hooked):
    """Raised before anything is written; where fc1 is called as a module it is torch that refuses x."""
    net = mlp()
    if hooked:
        net.fc1.register_forward_hook(lambda *_: None)
    objective = tmb.Objective(net, loss, 0.1)
    targets = Y if loss == "cross_entropy" else torch.rand(3, 4)
    objective(X, targets).backward()
    before = [(p.detach().clone(), p.grad.clone()) for p in net.parameters()]
    if hooked and message.startswith(("x ", "w1 ")):
        error, message = (error, RuntimeError), None
    with pytest.raises(error, match=message and f"^Objective: .*{message}"):
        objective(*arguments).backward()
    assert all(torch.equal(p, v) and torch.equal(p.grad, g) for p, (v, g) in zip(net.parameters(), before, strict=True))


def test_labels_are_checked_without_a_gradient_too():
    with torch.no_grad(), pytest.raises(ValueError, match="got 4 at row 0"):
        tmb.Objective(mlp())(X, torch.full((3,), 4))


@on_each_device
def test_the_label_that_is_ignored_need_not_be_a_class():
    assert tmb.Objective(mlp(), ignore_index=255)(batch()[0], torch.tensor([0, 255, 3])).isfinite()


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        ("weight_decay", True, "number"),  # would be λ = 1
        ("weight_decay", "0.1", "number"),
        ("weight_decay", None, "number"),
        ("label_smoothing", "0.1", "number"),
        ("ignore_index", 1.5, "int"),  # would be class 1
        ("ignore_index", None, "int"),
    ],
)
def test_options_of_another_type(option, value, kind):
    with pytest.raises(TypeError, match=f"^Objective: {option} must be an? {kind}, got {value!r}"):
        tmb.Objective(mlp(), **{option: value})
