"""The plans of a pipeline's two stages: measured on two processes; and refusals."""

import itertools
from functools import partial

import pytest
import torch
import torch.distributed as dist
from autograd.processes import on_two_processes

import torch_manual_bp as tmb
from torch_manual_bp import memory, pipeline

WIDTHS = (
    (16, (20, 30, 50)),
    (4, (300, 20, 20)),
)  # rows of a microbatch; d, h, q: activations, or parameters, are most of it
RUNS = [("gpipe", 1), ("gpipe", 4), ("1f1b", 2), ("1f1b", 5), ("zero_bubble", 2), ("zero_bubble", 6)]
VARIANTS = [
    ("relu", "cross_entropy", 0.1, torch.float32), ("gelu", "mse", 0.0, torch.float32),
    ("elu", "bce_with_logits", 0.1, torch.float64), ("identity", "cross_entropy", 0.0, torch.float64),
]  # fmt: skip
CASES = list(itertools.product(WIDTHS, RUNS, VARIANTS))
AGREEMENT = 256  # bytes by which the stages agree on a call, some of which threads of gloo give back unseen


needs_compiled = pytest.mark.skipif(
    tmb.kernels.backend().startswith("python"), reason="a plan is that of the compiled kernels"
)


def measured(case):
    """The plan and the measurement of this rank's stage."""
    (rows, widths), (schedule, microbatches), (activation, loss, weight_decay, dtype) = case
    torch.manual_seed(0)
    objective = tmb.Objective(tmb.MLP(*widths, activation, dtype=dtype), loss, weight_decay)
    batch = rows * microbatches
    plan = memory.plan_stages(objective, batch, microbatches, schedule)[dist.get_rank()]
    pipe = pipeline.build(objective, microbatches, schedule)
    x, y = torch.randn(batch, widths[0], dtype=dtype), torch.randint(widths[2], (batch,))
    y = y if loss == "cross_entropy" else torch.rand(batch, widths[2], dtype=dtype)
    for _ in range(3):  # upstream allocates its buffers with the first steps
        pipe.step(x, y)
        for parameter in pipe.parameters():
            parameter.grad = None
    seen = memory.measure(lambda: pipe.step(x, y), "cpu")
    return plan.call_bytes, seen.peak_bytes, plan.left_bytes, seen.left_bytes


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return on_two_processes({i: partial(measured, case) for i, case in enumerate(CASES)}, tmp_path_factory.mktemp("w"))


@pytest.mark.skipif(
    not torch.__version__.startswith("2.13"), reason="what upstream holds is planned as torch 2.13 does"
)
@needs_compiled
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("i", range(len(CASES)), ids=[str(case) for case in CASES])
def test_a_stages_plan_is_what_is_measured(results, i, rank):
    planned, peak, planned_left, left = results[rank][i]
    assert 0 <= peak - planned <= AGREEMENT
    assert 0 <= left - planned_left <= AGREEMENT


def stages(*arguments, widths=(784, 256, 10), **options):
    return memory.plan_stages(tmb.MLP(*widths, "gelu", device="meta"), *arguments, **options)


def test_each_stage_has_its_own_half():
    first, last = stages(1024, 8, optimizer="adamw")
    for plan, mine, others in ((first, {"w1", "b1", "x"}, {"w2", "y"}), (last, {"w2", "b2", "y"}, {"w1", "x"})):
        names = {tensor.name for tensor in plan.tensors}
        assert mine < names
        assert not others & names
        assert "exp_avg of " + min(mine & {"w1", "w2"}) in names


def test_1f1b_needs_less_than_gpipe_the_more_microbatches_there_are():
    """GPipe keeps z and h of all microbatches; 1F1B of three, beside the buffers to receive into."""
    few, many = (tuple(stages(4096, M, s)[0].call_bytes for s in ("gpipe", "1f1b")) for M in (4, 32))
    assert many[1] < few[1] / 4
    assert many[0] > 0.9 * few[0]


@needs_compiled
def test_a_stage_by_hand():
    """GPipe's first stage in the second backward: all microbatches' h, all z but one, gradients, db1 and its parts."""
    B, d, h, M = 64, 20, 30, 4
    plan = stages(B, M, "gpipe", widths=(d, h, 10))[0]
    parts = 8 * 8 * h  # 8 times the columns, of doubles
    assert plan.call_bytes == 4 * (2 * B * h - B // M * h + h * d + 2 * h) + parts
    assert sum(tensor.bytes for tensor in plan.tensors if tensor.name == "buffers for dh") == 4 * B * h


@pytest.mark.parametrize("arguments, options, message", [
    ((64, 5), {}, "batch must be a multiple of 5 microbatches, got 64"),
    ((64, 1), {}, "1f1b on 2 ranks needs at least 2 microbatches, got 1"),
    ((64, 4, "interleaved"), {}, "schedule must be one of gpipe, 1f1b, zero_bubble"),
    ((64, 4), {"dtype": torch.bfloat16}, "dtype must be float64 or float32, got torch.bfloat16"),
], ids=str)  # fmt: skip
def test_what_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        stages(*arguments, **options)


def test_frozen_parameters_are_refused():
    mlp = tmb.MLP(3, 4, 5)
    mlp.fc1.weight.requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter of a stage must require a gradient"):
        memory.plan_stages(mlp, 8, 2)
