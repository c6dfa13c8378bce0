from torch_manual_bp.bench import hessian, second_order
from torch_manual_bp.bench.problem import FLOOR, Candidate


def test_a_row_for_each_matrix(quick, shape):
    (row,) = hessian.measure(quick, [shape])
    assert row.labels["n"] == "66"
    best = hessian.fastest_peer(row)
    assert best not in (second_order.DENSE, FLOOR)
    peers = {name: ratio for name, ratio in row.ratios.items() if not name.startswith(FLOOR)}
    assert min(peers, key=peers.__getitem__) == f"{best} / {second_order.DENSE}"
    assert row.peak_bytes[second_order.DENSE] >= 4 * 66 * 66


def test_a_slow_peer_is_left_out(monkeypatch):
    # a takes 1 second once it is warm, b 5 and c 2
    clock = iter([0.0, 0.9, 0.9, 1.9, 1.9, 6.9, 6.9, 6.9, 8.9, 8.9])
    monkeypatch.setattr(hessian.time, "perf_counter", lambda: next(clock))
    peers = [Candidate(name, lambda: None) for name in ("a", "b", "c")]
    assert [peer.name for peer in hessian._worth_waiting_for(peers, set())] == ["a", "c"]


def test_a_peer_that_does_not_fit_is_left_out():
    def too_large():
        raise RuntimeError("can't allocate memory")

    assert hessian._worth_waiting_for([Candidate("a", too_large)], set()) == []
