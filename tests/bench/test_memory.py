import pytest

from torch_manual_bp.bench import memory
from torch_manual_bp.bench.report import Row

NET = (20, 16, 4)


@pytest.fixture
def rows(quick):
    return list(memory.measure(quick, shapes=((4096, *NET), (16384, *NET))))


def test_eager_is_what_one_counts_by_hand(rows):
    """Relu keeps x and h; at the peak of the backward pass h, dh and dz stand beside each other, and small things."""
    B, (d, h, q) = 16384, NET
    eager = rows[1].peak_bytes[memory.EAGER]
    assert 3 * B * h * 4 <= eager <= 3 * B * h * 4 + 2 * B * q * 4 + 8 * (d * h + h + h * q + q) * 4


def test_in_tiles_memory_does_not_grow_with_the_batch(rows):
    few, many = (row.peak_bytes for row in rows)
    assert many[memory.UNTILED] > 3 * few[memory.UNTILED]
    for name in memory.FLAT:
        assert many[name] == few[name] < many[memory.EAGER] / 4, name
        assert rows[1].ratios[f"{name}, 16384 / 4096 rows"] == 1


def test_goals(rows):
    verdicts = [judged.goal.verdict(judged.value, runs=1) for judged in memory.goals(rows[1])]
    assert verdicts == ["met"] * 4  # the same bytes as at 4096 rows
    assert memory.goals(rows[0]) == []
    ratios = {f"eager / {name}": 31.0 for name in memory.FLAT} | {"eager / step, SGD": 29.9}
    large = Row({"B, d, h, q": "65536, 784, 256, 10"}, ratios=ratios)
    assert {j.name for j in memory.goals(large) if not j.goal.met(j.value)} == {"eager / step, SGD"}


def test_cells(rows):
    made = memory.cells(Row({}, ratios={"eager / step, SGD": 30.04}, peak_bytes={"eager": 6e7, "step, SGD": 2e6}))
    assert made == {"eager": "60 MB", "step, SGD": "2 MB (30.0×)"}
