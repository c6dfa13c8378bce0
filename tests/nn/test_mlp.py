import copy

import pytest
import torch
from torch import nn

import torch_manual_bp as tmb
from torch_manual_bp.equations import ACTIVATIONS

# What computes; what is refused is refused before it is asked where the tensors are.
on_each_device = pytest.mark.usefixtures("on_device")


def f64(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def arguments():
    return {"x": f64(3, 5), "w1": f64(6, 5), "b1": f64(6), "w2": f64(4, 6), "b2": f64(4)}


# ------------------------------------------------------------------------------------------------------- initialisation

SEQUENTIALS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


@on_each_device
@pytest.mark.parametrize("hidden_bias", [True, False])
@pytest.mark.parametrize("output_bias", [True, False])
def test_initialised_as_sequential_under_the_same_seed(hidden_bias, output_bias):
    torch.manual_seed(3)
    mlp = tmb.MLP(5, 6, 4, hidden_bias=hidden_bias, output_bias=output_bias)
    torch.manual_seed(3)
    sequential = nn.Sequential(nn.Linear(5, 6, hidden_bias), nn.ReLU(), nn.Linear(6, 4, output_bias))
    ours, torchs = list(mlp.parameters()), list(sequential.parameters())
    assert len(ours) == 2 + hidden_bias + output_bias
    assert all(torch.equal(a, b) for a, b in zip(ours, torchs, strict=True))


@on_each_device
@pytest.mark.parametrize("name", SEQUENTIALS)
def test_forward_is_sequentials(name):
    mlp = tmb.MLP(5, 6, 4, name, dtype=torch.float64)
    sequential = nn.Sequential(copy.deepcopy(mlp.fc1), SEQUENTIALS[name](), copy.deepcopy(mlp.fc2))
    x = f64(3, 5)
    torch.testing.assert_close(mlp(x), sequential(x), rtol=1e-13, atol=1e-14)


def test_parameter_names_and_sizes():
    mlp = tmb.MLP(5, 6, 4, dtype=torch.float64)
    assert {name: tuple(p.shape) for name, p in mlp.named_parameters()} == {
        "fc1.weight": (6, 5), "fc1.bias": (6,), "fc2.weight": (4, 6), "fc2.bias": (4,),
    }  # fmt: skip
    assert (mlp.in_features, mlp.hidden_features, mlp.out_features) == (5, 6, 4)
    assert {p.dtype for p in mlp.parameters()} == {torch.float64}


def test_device():
    assert {p.device.type for p in tmb.MLP(5, 6, 4, device="meta").parameters()} == {"meta"}


def test_repr_shows_what_its_layers_do_not():
    assert tmb.MLP(5, 6, 4, "gelu", save="input").extra_repr() == "activation='gelu', save='input'"
    assert "(fc1): Linear(in_features=5, out_features=6, bias=True)" in str(tmb.MLP(5, 6, 4))


# --------------------------------------------------------------------------------------------------------- from_linears


@on_each_device
def test_from_linears_shares_the_parameters():
    fc1, fc2 = nn.Linear(5, 6), nn.Linear(6, 4, bias=False)
    mlp = tmb.MLP.from_linears(fc1, "tanh", fc2)
    assert mlp.fc1 is fc1 and mlp.fc2 is fc2
    x = torch.randn(3, 5)
    mlp(x).sum().backward()
    assert fc1.weight.grad is not None and fc2.weight.grad is not None
    torch.testing.assert_close(mlp(x), fc2(torch.tanh(fc1(x))), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.GELU(approximate="tanh"), "gelu_tanh"),
        (nn.GELU(), "gelu"),
        (nn.ReLU(inplace=True), "relu"),
        ("silu", "silu"),
    ],
    ids=str,
)
def test_from_linears_takes_a_module_or_a_name(module, name):
    mlp = tmb.MLP.from_linears(nn.Linear(5, 6), module, nn.Linear(6, 4), save="input")
    assert (mlp.activation, mlp.save) == (name, "input")


def test_from_linears_works_for_a_subclass():
    class Block(tmb.MLP):
        pass

    assert type(Block.from_linears(nn.Linear(5, 6), "relu", nn.Linear(6, 4))) is Block


@pytest.mark.parametrize(
    ("fc1", "activation", "fc2", "error", "message"),
    [
        (nn.ReLU(), "relu", nn.Linear(6, 4), TypeError, "MLP.from_linears: fc1 must be an nn.Linear, got ReLU"),
        (nn.Linear(5, 6), "relu", None, TypeError, "MLP.from_linears: fc2 must be an nn.Linear, got NoneType"),
        (nn.Linear(5, 6), "relu", nn.Linear(7, 4), ValueError,
         "MLP.from_linears: fc2 must take fc1's 6 outputs, it takes 7 inputs"),
        (nn.Linear(5, 6), nn.Dropout(0.1), nn.Linear(6, 4), ValueError,
         r"MLP.from_linears: activation must be one of identity, .*got Dropout\(p=0.1"),
        (nn.Linear(5, 6), nn.Sequential(nn.ReLU(), nn.Dropout()), nn.Linear(6, 4), ValueError,
         "(?s)got Sequential.*Dropout"),
        (nn.Linear(5, 6), nn.LeakyReLU(0.2), nn.Linear(6, 4), ValueError, r"got LeakyReLU\(negative_slope=0.2\)"),
        (nn.Linear(5, 6), "swish", nn.Linear(6, 4), ValueError,
         "MLP.from_linears: activation must be one of .*got 'swish'"),
        (nn.Linear(5, 6), torch.tanh, nn.Linear(6, 4), ValueError,
         "MLP.from_linears: activation must be one of .*tanh"),
    ],
    ids=["fc1", "fc2", "sizes", "dropout", "sequence", "slope", "name", "function"],
)  # fmt: skip
def test_from_linears_refuses(fc1, activation, fc2, error, message):
    with pytest.raises(error, match=message):
        tmb.MLP.from_linears(fc1, activation, fc2)


# ---------------------------------------------------------------------------------------------------- refused arguments


@pytest.mark.parametrize("name", ["in_features", "hidden_features", "out_features"])
@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (-1, ValueError, "must not be negative, got -1"),
        (True, TypeError, "must be an int, got True"),
        (5.0, TypeError, r"must be an int, got 5\.0"),
        ("5", TypeError, "must be an int, got '5'"),
        (None, TypeError, "must be an int, got None"),
    ],
    ids=repr,
)
def test_sizes(name, size, error, message):
    sizes = {"in_features": 5, "hidden_features": 6, "out_features": 4, name: size}
    with pytest.raises(error, match=f"MLP: {name} {message}"):
        tmb.MLP(**sizes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "swish"}, "MLP: activation must be one of identity, relu, .*; got 'swish'"),
        ({"activation": None}, "MLP: activation must be one of .*; got None"),
        ({"activation": ["relu"]}, r"MLP: activation must be one of .*; got \['relu'\]"),
        ({"save": "everything"}, "MLP: save must be one of auto, input; got 'everything'"),
        ({"save": None}, "MLP: save must be one of auto, input; got None"),
    ],
    ids=str,
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        tmb.MLP(5, 6, 4, **options)


REFUSED = [
    ("x", lambda a: a.tolist(), TypeError, "x must be a tensor, got list"),
    ("w1", lambda a: None, TypeError, "w1 must be a tensor, got NoneType"),
    ("b1", lambda a: 0.0, TypeError, "b1 must be a tensor, got float"),
    ("x", lambda a: a.long(), TypeError, "x must have a floating-point dtype, got torch.int64"),
    ("x", lambda a: a.to(torch.complex128), TypeError, "x must have a floating-point dtype, got torch.complex128"),
    ("x", lambda a: a.float(), TypeError, "w1 must have x's dtype torch.float32, got torch.float64"),
    ("b2", lambda a: a.float(), TypeError, "b2 must have x's dtype torch.float64, got torch.float32"),
    ("w2", lambda a: a.bfloat16(), TypeError, "w2 must have x's dtype torch.float64, got torch.bfloat16"),
    ("x", lambda a: f64(3, 4), ValueError, r"x must have shape \(..., 5\) to fit w1 \(6, 5\), got \(3, 4\)"),
    ("x", lambda a: f64(()), ValueError, r"x must have shape \(..., 5\) to fit w1 \(6, 5\), got \(\)"),
    ("w1", lambda a: f64(6), ValueError, r"w1 must have shape \(h, d\), got \(6,\)"),
    ("w2", lambda a: f64(4, 6, 1), ValueError, r"w2 must have shape \(q, h\), got \(4, 6, 1\)"),
    ("w2", lambda a: f64(4, 7), ValueError, r"w2 must have shape \(q, 6\) to fit w1 \(6, 5\), got \(4, 7\)"),
    ("b1", lambda a: f64(1), ValueError, r"b1 must have shape \(6,\), got \(1,\)"),
    ("b2", lambda a: f64(4, 1), ValueError, r"b2 must have shape \(4,\), got \(4, 1\)"),
    ("w1", lambda a: a.to("meta"), ValueError, "w1 must be on x's device cpu, got meta"),
    ("x", lambda a: a.to("meta"), ValueError, "w1 must be on x's device meta, got cpu"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "error", "message"), REFUSED, ids=[f"{c[0]}: {c[3]}" for c in REFUSED])
def test_tensors(name, change, error, message):
    given = arguments()
    with pytest.raises(error, match=f"^mlp: {message}$"):
        tmb.functional.mlp(**given | {name: change(given[name])})


@pytest.mark.parametrize(("option", "value"), [("activation", "swish"), ("save", "all")])
def test_options_of_the_function(option, value):
    with pytest.raises(ValueError, match=f"^mlp: {option} must be one of .*; got '{value}'$"):
        tmb.functional.mlp(**arguments(), **{option: value})


def test_the_module_speaks_in_its_own_name():
    with pytest.raises(
        ValueError, match=r"^MLP: x must have shape \(..., 784\) to fit w1 \(256, 784\), got \(32, 783\)$"
    ):
        tmb.MLP(784, 256, 10)(torch.randn(32, 783))


def test_refused_also_inside_a_transform():
    given = arguments()
    with pytest.raises(ValueError, match=r"mlp: x must have shape \(..., 5\)"):
        torch.func.vmap(lambda x: tmb.functional.mlp(**given | {"x": x}))(f64(3, 4))


@on_each_device
def test_nothing_is_written_where_something_is_refused():
    mlp = tmb.MLP(5, 6, 4)
    mlp(torch.randn(3, 5)).sum().backward()
    before = [(p.detach().clone(), p.grad.clone()) for p in mlp.parameters()]
    with pytest.raises(ValueError):
        mlp(torch.randn(3, 4)).sum().backward()
    assert all(torch.equal(p, v) and torch.equal(p.grad, g) for p, (v, g) in zip(mlp.parameters(), before, strict=True))


def test_every_activation_has_a_module_that_makes_it_or_none():
    for name, phi in ACTIVATIONS.items():
        if phi.module is not None:
            assert tmb.MLP.from_linears(nn.Linear(2, 3), phi.module(), nn.Linear(3, 1)).activation == name
