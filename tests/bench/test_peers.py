import pytest
import torch

from torch_manual_bp.bench import peers
from torch_manual_bp.bench.problem import Problem


def test_all_have_the_same_gradients(shape):
    problem = Problem(shape, "relu", torch.float64)
    eager, *others = peers.gradient_candidates(problem, compiled=False)
    assert peers.OURS in [candidate.name for candidate in others]
    eager.call()
    for candidate in others:
        for _ in range(2):  # a second call starts from no gradient again
            candidate.call()
        for ours, theirs in zip(candidate.parameters, eager.parameters, strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-14, msg=candidate.name)


def test_torchs_loss_is_among_the_peers_where_there_is_one(quick, shape):
    (row,) = peers.measure(quick, shape)
    expected = ["matrix products", "eager", "LinearCrossEntropyLoss", "LinearCrossEntropyLoss, chunked", peers.OURS]
    if not hasattr(torch.nn, "LinearCrossEntropyLoss"):
        expected = [name for name in expected if "Loss" not in name]
    assert list(row.seconds) == expected
    assert set(row.peak_bytes) == set(expected[1:])
    assert min(row.peak_bytes.values()) >= 4 * (5 * 7 + 7 + 7 * 3 + 3)  # the gradients at least


def test_cells(quick, shape):
    (row,) = peers.measure(quick, shape)
    cells = peers.cells(row)
    assert cells[peers.OURS].startswith(peers.as_time(row.seconds[peers.OURS]) + " (1.00×), ")
    assert cells["matrix products"].endswith("×)")  # results of the floor are thrown away: no bytes


@pytest.mark.skipif(not hasattr(torch.nn, "LinearCrossEntropyLoss"), reason="torch 2.13 has it")
def test_the_chunked_loss_is_the_chunked_one(shape):
    """Its logits must not stand there as a whole, or the peer would be the plain loss under another name."""
    problem = Problem((4096, 8, 16, 512))
    peaks = {c.name: peers.candidate_peak(c) for c in peers.gradient_candidates(problem, compiled=False)}
    assert peaks[peers.TORCH_CHUNKED] < peaks[peers.TORCH] / 2
