"""Every check is run on the CPU: it holds there, and it finds what is broken on purpose."""

import pytest
import torch

from torch_manual_bp import Objective, kernels
from torch_manual_bp.verify import CHECKS, OPS, edges, networks, run_check, transforms

ON_CUDA_ONLY = {"nothing waits", "CUDA graphs", "side stream", "second device"}
NO_FLOAT16 = "ignore:torch_manual_bp. float16 matrix products"
# how much there is to find, so that a check that looks at nothing does not pass for one that holds
LEAST = {
    "hidden ops": 1000, "cross_entropy": 280, "mse, bce_with_logits": 90, "classes in tiles": 160, "scaled logits": 8,
    "labels": 4, "updates": 200, "SGD in products": 16, "first order": 1500, "second order": 300,
    "lean gradients": 580, "lean steps": 330, "autocast": 90, "same bits twice": 80, "empty batches": 120,
    "large tensors": 100, "torch.func": 10, "bad labels": 6, "torch.compile": 20,
}  # fmt: skip


def failures(name, setting):
    return [f"{f.check} {f.note}" for f in run_check(name, setting) if not f.ok]


@pytest.mark.filterwarnings(NO_FLOAT16)
@pytest.mark.parametrize("name", LEAST)
def test_it_holds_on_the_cpu(name, setting):
    findings = list(run_check(name, setting))
    assert [f for f in findings if not f.ok] == []
    assert len(findings) >= LEAST[name]
    assert not any(f.skipped for f in findings)
    assert {f.group for f in findings} == {name}


@pytest.mark.parametrize("name", sorted(ON_CUDA_ONLY))
def test_what_only_cuda_has_is_said_to_be_skipped(name, setting):
    (finding,) = run_check(name, setting)
    assert finding.skipped and finding.note == "exists on CUDA only"


def test_every_check_is_tried():
    assert set(CHECKS) == set(LEAST) | ON_CUDA_ONLY
    assert set(OPS) < set(LEAST)


def a_little_off(t):
    """One part in a thousand, or another bit."""
    t.add_(1) if not t.is_floating_point() else t.view(-1)[-1:].mul_(1.03).add_(1e-3)


def argument(i):
    """Breaks an op by what it leaves in its i-th argument (of a list, in the first of it)."""

    def broken(op):
        def call(*arguments):
            results = op(*arguments)
            target = arguments[i][0] if isinstance(arguments[i], list) else arguments[i]
            if target.numel():
                a_little_off(target)
            return results

        return call

    return broken


def result(i=None):
    """Breaks an op by its result, or the i-th of several."""

    def broken(op):
        def call(*arguments):
            results = op(*arguments)
            if isinstance(results, int):
                return results + 1
            target = results if i is None else results[i]
            if target is not None:
                a_little_off(target)
            return results

        return call

    return broken


BROKEN = [
    ("hidden ops", "bias_act_", argument(0), "bias_act_: relu"),
    ("hidden ops", "bias_act_keep_", argument(0), "bias_act_keep_, z: tanh"),
    ("hidden ops", "bias_act_keep_", argument(1), "bias_act_keep_, h: tanh"),
    ("hidden ops", "bias_act_mask_", result(), "bias_act_mask_, mask: leaky_relu"),
    ("hidden ops", "act", result(), "act: gelu"),
    ("hidden ops", "dact_", argument(0), "dact_ from h, dz: sigmoid"),
    ("hidden ops", "dact_", result(), "dact_ from mask with db, db: relu"),
    ("cross_entropy", "cross_entropy_", argument(0), "Ĝ"),
    ("cross_entropy", "cross_entropy_", result(0), "L"),
    ("mse, bce_with_logits", "mse_", argument(0), "mse_: 64 outputs"),
    ("mse, bce_with_logits", "bce_with_logits_", result(0), "bce_with_logits_: 5 outputs"),
    ("classes in tiles", "class_statistics_", argument(5), "tiles of 512"),
    ("classes in tiles", "class_loss", result(0), "tiles of 3"),
    ("classes in tiles", "cross_entropy_classes_", argument(0), "tiles of 2048"),
    ("scaled logits", "scaled", result(), "scaled: 64 columns"),
    ("labels", "find_bad_label", result(), "find_bad_label: none"),
    ("updates", "sgd_", argument(0), "SGD, momentum: "),
    ("updates", "sgd_", argument(2), "SGD, Nesterov, weight_decay, clipping: "),
    ("updates", "adam_", argument(3), "AdamW: "),
    ("SGD in products", "sgd_products_", argument(2), "sgd_products_, w2"),
    ("empty batches", "cross_entropy_", result(1), "no rows: cross_entropy_, mean"),
    ("torch.compile", None, None, "torch.compile of MLP"),
]


@pytest.mark.filterwarnings(NO_FLOAT16)
@pytest.mark.parametrize(
    ("name", "op", "broken", "found"), BROKEN, ids=[f"{name}: {op} {found}" for name, op, _, found in BROKEN]
)
def test_a_broken_op_is_found(name, op, broken, found, setting, monkeypatch):
    if op is None:
        object.__setattr__(setting, "compile_backend", doubled)
    else:
        if op == "sgd_" and found.startswith("SGD, Nesterov"):
            broken = only_with_state(broken)
        monkeypatch.setattr(kernels, op, broken(getattr(kernels, op)))
    assert any(found in failure for failure in failures(name, setting))


def only_with_state(broken):
    return lambda op: lambda *arguments: (broken(op) if arguments[2] else op)(*arguments)


def doubled(graph, inputs):
    """A compiler that gives back a little more than it should."""
    return lambda *arguments: [out * 1.01 if out.is_floating_point() else out for out in graph(*arguments)]


def test_noise_is_found_by_calling_twice(setting, monkeypatch):
    right = kernels.mse_

    def noisy(o, *arguments):
        L, scale = right(o, *arguments)
        return L * (1 + 1e-6 * torch.rand(()).to(L)), scale

    monkeypatch.setattr(kernels, "mse_", noisy)
    assert [f.split(", result")[0] for f in failures("same bits twice", setting)] == ["twice the same: mse_"] * 3


def test_rows_that_only_a_large_call_misses_are_found(setting, monkeypatch):
    right = kernels.dact_

    def misses_the_end(dh, *arguments):
        kept = dh[7:].clone()
        db = right(dh, *arguments)
        if len(dh) == 8:  # all of them; the pieces have fewer
            dh[7:] = kept
        return db

    monkeypatch.setattr(kernels, "dact_", misses_the_end)
    assert [f.split(":")[0] for f in failures("large tensors", setting)] == ["dact_ with db of 32768 elements"]


@pytest.mark.filterwarnings(NO_FLOAT16)
@pytest.mark.parametrize("name", ["first order", "second order", "lean gradients", "lean steps", "autocast"])
def test_another_objective_is_found(name, setting, monkeypatch):
    def with_more_decay(mlp, loss, weight_decay, **options):
        return Objective(mlp, loss, 1.5 * weight_decay, **options)

    monkeypatch.setattr(networks, "Objective", with_more_decay)
    assert len(failures(name, setting)) > 10


def test_a_wrong_transform_is_found(setting, monkeypatch):
    right = transforms.grad
    monkeypatch.setattr(
        transforms, "grad", lambda f: lambda *a: {name: g * (1 + 1e-9) for name, g in right(f)(*a).items()}
    )
    assert len(failures("torch.func", setting)) == 8


def test_a_bad_label_that_ends_in_a_number_is_found(setting, monkeypatch):
    monkeypatch.setattr(edges, "_BAD_LABEL", edges._BAD_LABEL.replace("y[100] = q", "y[100] = q - 1"))
    found = failures("bad labels", setting)
    assert len(found) == 3
    assert found[0].startswith("a bad label, unchecked: whole batch J is ") and "nothing was raised" in found[0]


def test_a_check_that_raises_ends_in_a_finding(setting, monkeypatch):
    def raises(*arguments):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(kernels, "act", raises)
    *before, last = run_check("hidden ops", setting)
    assert len(before) == 6 and all(f.ok for f in before)
    assert not last.ok and last.check == "raised" and last.group == "hidden ops"
    assert last.note.startswith("RuntimeError: CUDA error: an illegal memory access")
