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
    clock = iter([0.0, 1.0, 1.0, 6.0, 6.0, 8.0])  # first calls of 1, 5 and 2 seconds
    monkeypatch.setattr(hessian.time, "perf_counter", lambda: next(clock))
    peers = [Candidate(name, lambda: None) for name in ("a", "b", "c")]
    assert [peer.name for peer in hessian._worth_waiting_for(peers, set())] == ["a", "c"]
