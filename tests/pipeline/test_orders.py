"""The orders, drawn by hand for two ranks, and held against what torch's schedules do to a stage."""

import pytest
from torch.distributed.pipelining import Schedule1F1B, ScheduleGPipe, ScheduleInterleavedZeroBubble

from torch_manual_bp.pipeline.orders import ORDERS, order

DRAWN = {
    "gpipe": ("F0 F1 F2 F3 B0 B1 B2 B3", "F0 F1 F2 F3 B0 B1 B2 B3"),
    "1f1b": ("F0 F1 B0 F2 B1 F3 B2 B3", "F0 B0 F1 B1 F2 B2 F3 B3"),
    "zero_bubble": ("F0 F1 I0 W0 F2 I1 W1 F3 I2 W2 I3 W3", "F0 I0 F1 I1 W0 F2 I2 W1 F3 I3 W2 W3"),
}
CASES = [
    (schedule, ranks, microbatches)
    for schedule in ORDERS
    for ranks in (1, 2, 3, 4)
    for microbatches in (1, 2, 4, 6, 8, 12)
    if schedule != "1f1b" or microbatches >= ranks
    if schedule != "zero_bubble" or microbatches % max(1, microbatches // ranks) == 0
]


def written(actions):
    return " ".join(f"{action.kind}{action.microbatch}" for action in actions)


@pytest.mark.parametrize("schedule", ORDERS)
def test_two_ranks_as_drawn(schedule):
    assert tuple(written(order(schedule, rank, 2, 4)) for rank in (0, 1)) == DRAWN[schedule]


class StandIn:
    """A stage that sends nothing, computes nothing and writes down what it is told to do."""

    submod = None

    def __init__(self, rank, ranks):
        self.stage_index = self.group_rank = rank
        self.num_stages = self.group_size = ranks
        self.is_first, self.is_last = rank == 0, rank == ranks - 1
        self.done = []

    def nothing(self, *args, **kwargs):
        return []

    get_fwd_recv_ops = get_fwd_send_ops = get_bwd_recv_ops = get_bwd_send_ops = nothing
    perform_reduce_grad = nothing

    def forward_one_chunk(self, microbatch, *args, **kwargs):
        self.done.append(f"F{microbatch}")

    def backward_one_chunk(self, microbatch, loss=None, full_backward=True, last_backward=False):
        self.done.append(f"{'B' if full_backward else 'I'}{microbatch}")

    def backward_weight_one_chunk(self, microbatch, last_backward=False):
        self.done.append(f"W{microbatch}")


@pytest.mark.parametrize(("schedule", "ranks", "microbatches"), CASES)
def test_torch_drives_a_stage_in_this_order(schedule, ranks, microbatches):
    for rank in range(ranks):
        stage = StandIn(rank, ranks)
        if schedule == "zero_bubble":
            upstream = ScheduleInterleavedZeroBubble([stage], microbatches, loss_fn=lambda *_: 0)
        else:
            upstream = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}[schedule](
                stage, microbatches, loss_fn=lambda *_: 0
            )
        upstream._initialize_stage = upstream._initialize_stages = stage.nothing  # shapes, and the first messages
        upstream._step_microbatches(target_mbs=[None] * microbatches, return_outputs=False)
        assert " ".join(stage.done) == written(order(schedule, rank, ranks, microbatches)), rank


@pytest.mark.parametrize(
    ("schedule", "ranks", "microbatches", "message"),
    [
        ("pipedream", 2, 4, "schedule must be one of gpipe, 1f1b, zero_bubble; got 'pipedream'"),
        ("gpipe", 0, 4, "at least one rank, got 0"),
        ("gpipe", 2, 0, "microbatches must be at least 1, got 0"),
        ("1f1b", 4, 3, "1f1b on 4 ranks needs at least 4 microbatches, got 3"),
        ("zero_bubble", 2, 5, "2 rounds of the same length, got 5; 4 or 6 would do"),
    ],
)
def test_what_torch_does_not_run_is_refused(schedule, ranks, microbatches, message):
    with pytest.raises(ValueError, match=message):
        order(schedule, 0, ranks, microbatches)


def test_torch_refuses_it_too():
    with pytest.raises(ValueError):
        Schedule1F1B(StandIn(0, 4), 3)
    with pytest.raises(ValueError):
        ScheduleInterleavedZeroBubble([StandIn(0, 2)], 5)
