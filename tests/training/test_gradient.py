"""float64 against the equations, and loss options, shares and layouts against the objective without tiles."""

import pytest
import torch
from autograd.reference import NAMES, assert_close

import torch_manual_bp as tmb
from torch_manual_bp import kernels
from torch_manual_bp.equations import LOSSES
from torch_manual_bp.training import gradient as gradient_module

from .cases import BIASES, LAMBDA, TILES, batch, found, objective_of, untiled

TOLERANCE = 1e-12


def by_the_table(objective, x, y):
    """J, dx and the gradients of the parameters that there are, in the module's order."""
    mlp, loss = objective.mlp, objective.loss.name
    tensors = (x, mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias)
    given = {name: t.detach() for name, t in zip(NAMES, tensors, strict=True) if t is not None}
    table = tmb.equations.table(mlp.activation, loss, mlp.fc1.bias is not None, mlp.fc2.bias is not None)
    values = table.evaluate(given | {"y": y, "weight_decay": objective.weight_decay})
    return [values["J"], *(values[f"d{name}"] for name in given)]


@pytest.mark.parametrize(("hidden_bias", "output_bias"), BIASES)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_table_holds_for_every_tile(activation, loss, hidden_bias, output_bias, way, backend):
    objective = objective_of(activation, loss, hidden_bias=hidden_bias, output_bias=output_bias)
    x, y = batch(loss)
    expected = by_the_table(objective, x, y)
    for tile_rows in TILES:
        objective.zero_grad()
        leaf = x.clone().requires_grad_()
        J = way(objective, leaf, y, tile_rows=tile_rows)
        assert_close(found(J, objective, leaf), expected, TOLERANCE)


def test_classes_in_tiles(activation, way, backend, three_classes):
    """h kept, z kept; every loss; eight classes are tiles of three, three and two."""
    for loss in LOSSES:
        for output_bias in (True, False):
            objective, (x, y) = objective_of(activation, loss, q=8, output_bias=output_bias), batch(loss, q=8)
            expected = by_the_table(objective, x, y)
            for tile_rows in (3, 7):
                objective.zero_grad()
                leaf = x.clone().requires_grad_()
                J = way(objective, leaf, y, tile_rows=tile_rows)
                assert_close(found(J, objective, leaf), expected, TOLERANCE)


# --------------------------------------------------------------------------------------------------------- loss options

Q = 8
CLASS_WEIGHT = torch.tensor([0.2, 1.5, 0.7, 1.0, 0.0, 2.0, 0.1, 1.1], dtype=torch.float64)
OPTIONS = [
    ("cross_entropy", {"reduction": "sum"}),
    ("cross_entropy", {"label_smoothing": 0.1}),
    ("cross_entropy", {"ignore_index": 2}),
    ("cross_entropy", {"ignore_index": -7}),
    ("cross_entropy", {"class_weight": CLASS_WEIGHT}),
    ("cross_entropy", {"class_weight": CLASS_WEIGHT, "label_smoothing": 0.2, "ignore_index": 1}),
    ("cross_entropy", {"class_weight": CLASS_WEIGHT, "label_smoothing": 1.0, "ignore_index": -7, "reduction": "sum"}),
    ("mse", {}),
    ("mse", {"reduction": "sum"}),
    ("bce_with_logits", {}),
    ("bce_with_logits", {"reduction": "sum"}),
]
with_options = pytest.mark.parametrize(
    ("loss", "options"), OPTIONS, ids=["-".join(map(str, (loss, *options))) for loss, options in OPTIONS]
)
MEANS = [case for case in OPTIONS if case[1].get("reduction") != "sum"]
with_options_of_a_mean = pytest.mark.parametrize(
    ("loss", "options"), MEANS, ids=["-".join(map(str, (loss, *options))) for loss, options in MEANS]
)
WEIGHTS = {
    "no row weights": None,
    "row weights": torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0, 0.25, 1.0, 1.0, 0.0, 1.0, 2.0], dtype=torch.float64),
}
with_row_weights = pytest.mark.parametrize("row_weight", WEIGHTS.values(), ids=WEIGHTS)


def batch_with_options(loss, options, B=11):
    """Every class is there, and so are the rows that are left out."""
    x, y = batch(loss, B, q=Q)
    if loss == "cross_entropy":
        y[:Q] = torch.arange(Q)
        if options.get("ignore_index", 0) < 0:
            y[[2, 9]] = options["ignore_index"]
    return x, y


@with_row_weights
@with_options
def test_means_are_over_the_batch_and_not_over_the_tile(loss, options, row_weight, way, backend):
    objective, (x, y) = objective_of("gelu", loss, q=Q, **options), batch_with_options(loss, options)
    expected = untiled(objective, x, y, row_weight)
    for tile_rows in (1, 4, 11):
        objective.zero_grad()
        leaf = x.clone().requires_grad_()
        J = way(objective, leaf, y, row_weight, tile_rows)
        assert_close(found(J, objective, leaf), expected, TOLERANCE)


@with_row_weights
@with_options
def test_options_with_classes_in_tiles(loss, options, row_weight, way, backend, three_classes):
    test_means_are_over_the_batch_and_not_over_the_tile(loss, options, row_weight, way, backend)


@pytest.fixture
def only_the_device_knows(monkeypatch):
    """The number of rows stays a tensor, as on an accelerator, where looking at it would be a wait."""
    number = gradient_module._summed_number

    def of_device(n, device, group):
        return torch.tensor(number(n, device, group), dtype=torch.float64) if isinstance(n, torch.Tensor) else n

    monkeypatch.setattr(gradient_module, "_summed_number", of_device)
    monkeypatch.setattr(kernels, "has_one_call", lambda *_: False)


@with_row_weights
@with_options
def test_the_number_of_rows_may_stay_on_the_device(loss, options, row_weight, way, only_the_device_knows):
    test_means_are_over_the_batch_and_not_over_the_tile(loss, options, row_weight, way, None)


@with_row_weights
@with_options_of_a_mean
def test_parts_of_a_batch_whose_number_is_on_the_device(loss, options, row_weight, only_the_device_knows):
    test_parts_of_a_batch_add_up_to_it(loss, options, row_weight)


def test_no_row_on_the_device(way, only_the_device_knows):
    for tile_rows in (3, 7):
        test_every_row_ignored_is_a_nan_with_the_gradient_of_the_penalty(way, tile_rows)


def test_a_scale_on_the_device(only_the_device_knows):
    """0 as well: J is J, its gradient is 0."""
    test_grad_scale_multiplies_the_gradient_and_not_J()
    objective, (x, y) = objective_of(), batch()
    J = objective.accumulate_grad(x, y, grad_scale=0.0)
    assert_close([J], untiled(objective, x, y)[:1], TOLERANCE)
    assert not any(p.grad.any() for p in objective.parameters())


@pytest.mark.parametrize("tile_rows", [3, 7])
def test_every_row_ignored_is_a_nan_with_the_gradient_of_the_penalty(way, tile_rows):
    objective, (x, _) = objective_of(), batch()
    x.requires_grad_()
    J = way(objective, x, torch.full((7,), -100), tile_rows=tile_rows)
    assert J.isnan() and torch.equal(x.grad, torch.zeros_like(x))
    for layer in (objective.mlp.fc1, objective.mlp.fc2):
        assert torch.equal(layer.weight.grad, LAMBDA * layer.weight)
        assert torch.equal(layer.bias.grad, torch.zeros_like(layer.bias))


# ----------------------------------------------------------------------------------------------------- parts of a batch


def test_grad_scale_multiplies_the_gradient_and_not_J():
    objective, (x, y) = objective_of(), batch()
    J, dx, *gradients = untiled(objective, x, y)
    for scale in (1024.0, torch.tensor(1024.0)):
        objective.zero_grad()
        x = x.detach().requires_grad_()
        got = found(objective.accumulate_grad(x, y, tile_rows=3, grad_scale=scale), objective, x)
        assert_close(got, [J, *(1024 * g for g in (dx, *gradients))], TOLERANCE)


def number_of_rows(objective, y, row_weight):
    """N by its definition: Σ_b r_b w_{y_b} over the rows that count."""
    rows = torch.ones(len(y), dtype=torch.float64) if row_weight is None else row_weight
    if objective.loss.takes_classes:
        kept = y != objective.loss.ignore_index
        rows = rows[kept] if objective.class_weight is None else rows[kept] * objective.class_weight[y[kept]]
    return rows.sum()


@with_row_weights
@with_options_of_a_mean
def test_parts_of_a_batch_add_up_to_it(loss, options, row_weight):
    """J and gradient, and the penalty once: with 4, 5 and 2 rows, and a scale."""
    objective, (x, y) = objective_of("gelu", loss, q=Q, **options), batch_with_options(loss, options)
    J, _, *gradients = untiled(objective, x, y, row_weight)
    parts = [None] * 3 if row_weight is None else row_weight.split((4, 5, 2))
    total = sum(
        objective.accumulate_grad(
            *part, normalizer=number_of_rows(objective, y, row_weight), grad_scale=2.0, tile_rows=2
        )
        for part in zip(x.split((4, 5, 2)), y.split((4, 5, 2)), parts, strict=True)
    )
    assert_close(found(total, objective), [J, *(2 * g for g in gradients)], TOLERANCE)


def test_a_part_whose_rows_are_all_ignored_adds_nothing():
    objective, (x, _) = objective_of(), batch()
    J = objective.accumulate_grad(x, torch.full((7,), -100), normalizer=5)
    assert J == 0 and all(torch.equal(p.grad, torch.zeros_like(p)) for p in objective.parameters())


# -------------------------------------------------------------------------------------------------------------- layouts

LAYOUTS = {
    "transposed": lambda a: a.t().contiguous().t(),
    "every other row": lambda a: a.repeat_interleave(2, 0)[::2],
    "every other column": lambda a: a.repeat_interleave(2, -1)[..., ::2],
    "zero stride in rows": lambda a: a[:1].expand(a.shape),
    "zero stride in columns": lambda a: a[..., :1].expand(a.shape),
    "with an offset": lambda a: torch.cat([a.flatten()[:1], a.flatten()])[1:].view(a.shape),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_inputs_and_targets(layout, loss, way):
    objective, (x, y) = objective_of("gelu", loss), batch(loss)
    x = LAYOUTS[layout](x)
    y = y.repeat_interleave(2)[::2] if loss == "cross_entropy" else LAYOUTS[layout](y)
    assert layout == "with an offset" or not x.is_contiguous()
    expected = untiled(objective, x, y)
    for tile_rows in (3, "auto"):
        objective.zero_grad()
        leaf = x.detach().requires_grad_()
        J = way(objective, leaf, y, tile_rows=tile_rows)
        assert_close(found(J, objective, leaf), expected, TOLERANCE)


@pytest.mark.parametrize("lead", [(), (1,), (2, 3), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_inputs_of_any_dimension(lead, loss, way):
    """Row weights have the shape of the labels."""
    objective = objective_of("silu", loss)
    x = torch.randn(*lead, 5, dtype=torch.float64, requires_grad=True)
    y = torch.randint(4, lead) if loss == "cross_entropy" else torch.rand(*lead, 4, dtype=torch.float64)
    row_weight = torch.rand(lead, dtype=torch.float64)
    J = way(objective, x, y, row_weight, 2)
    assert_close(found(J, objective, x), untiled(objective, x, y, row_weight), TOLERANCE)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", LOSSES)
def test_an_empty_batch_leaves_the_penalty(loss, reduction, way):
    objective, (x, y) = objective_of("relu", loss, reduction=reduction), batch(loss, B=0)
    x.requires_grad_()
    J = way(objective, x, y)
    weights = objective.mlp.fc1.weight, objective.mlp.fc2.weight
    assert x.grad.shape == (0, 5)
    assert all(torch.equal(w.grad, LAMBDA * w) for w in weights)
    assert all(torch.equal(b.grad, torch.zeros_like(b)) for b in (objective.mlp.fc1.bias, objective.mlp.fc2.bias))
    if reduction == "mean":
        assert J.isnan()
    else:
        torch.testing.assert_close(J, LAMBDA / 2 * sum(w.detach().square().sum() for w in weights), rtol=1e-14, atol=0)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("sizes", [(0, 6, 4), (5, 0, 4), (1, 1, 1)], ids=["no inputs", "no hidden units", "all one"])
def test_widths_at_the_edge(sizes, way):
    d, h, q = sizes
    objective, (x, y) = objective_of("tanh", "mse", d=d, h=h, q=q), batch("mse", d=d, q=q)
    x.requires_grad_()
    J = way(objective, x, y, tile_rows=3)
    assert_close(found(J, objective, x), untiled(objective, x, y), TOLERANCE)


# ------------------------------------------------------------------------------------------------------- what is needed

PARAMETERS = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")


@pytest.mark.parametrize("needs_dx", [True, False], ids=["dx", "no dx"])
@pytest.mark.parametrize("frozen", [*((name,) for name in PARAMETERS), PARAMETERS[:2], PARAMETERS[2:]], ids=" ".join)
def test_frozen_parameters_get_no_gradient(frozen, needs_dx, activation, way):
    """h kept and z kept, each with a table of steps of its own."""
    objective, (x, y) = objective_of(activation), batch()
    J, dx, *gradients = untiled(objective, x, y)
    named = dict(objective.mlp.named_parameters())
    for name in frozen:
        named[name].requires_grad_(False)
    x.requires_grad_(needs_dx)
    J_of_tiles = way(objective, x, y, tile_rows=3)
    assert all((p.grad is None) == (name in frozen) for name, p in named.items())
    assert (x.grad is not None) == needs_dx
    expected = [J, *([dx] if needs_dx else []), *(g for n, g in zip(named, gradients, strict=True) if n not in frozen)]
    assert_close([g for g in found(J_of_tiles, objective, x) if g is not None], expected, TOLERANCE)


def test_everything_frozen_is_a_value():
    objective, (x, y) = objective_of(tile_rows=3), batch()
    expected = untiled(objective, x, y)[0]
    objective.requires_grad_(False)
    J = objective(x, y)
    assert not J.requires_grad
    assert_close([J, objective.accumulate_grad(x, y, tile_rows=3)], [expected, expected], TOLERANCE)
    assert all(p.grad is None for p in objective.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tile_rows", [13, "auto"])
def test_the_same_bits_on_every_run(dtype, tile_rows, way):
    objective, (x, y) = objective_of("gelu", d=17, h=33, q=9, dtype=dtype), batch(B=100, d=17, q=9, dtype=dtype)
    runs = []
    for _ in range(3):
        objective.zero_grad()
        runs.append(found(way(objective, x, y, tile_rows=tile_rows), objective))
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))
