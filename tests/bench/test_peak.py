import torch

from torch_manual_bp.bench.peak import candidate_peak, peak_bytes, peak_of
from torch_manual_bp.bench.problem import Candidate


def test_a_known_pattern_is_exact_to_the_byte():
    def pattern():
        a = torch.empty(1000)
        b = torch.empty(500)  # 6000 bytes
        del a
        c = torch.empty(1001)  # 2000 + 4004 bytes, the most that is there at one time
        del b
        d = torch.empty(400)
        return c, d

    assert peak_bytes(pattern) == 6004


def test_temporaries_inside_of_an_operator_are_seen():
    """mul_ by a mask makes a float copy of the mask: a tool that looks at operators' results misses it."""
    d, mask = torch.ones(1000), torch.ones(1000, dtype=torch.bool)
    assert peak_bytes(lambda: d.mul_(mask)) == 4000


def test_what_is_freed_on_another_thread_counts():
    """Backward runs in the caller's thread on a CPU, but OpenMP and the engine's threads allocate as well."""
    w = torch.ones(64, 64, requires_grad=True)
    x = torch.ones(128, 64)
    peak = peak_bytes(lambda: (x @ w).sum().backward())
    products, expanded, gradient, scalar = 128 * 64 * 4, 4, 64 * 64 * 4, 4
    assert products <= peak <= products + expanded + gradient + 2 * scalar


def test_what_stood_before_stands_to_the_end():
    stood_before = [torch.empty(1000)]

    def give_back_and_take():
        stood_before.clear()
        return torch.empty(900)

    assert peak_bytes(give_back_and_take) == 3600


def test_what_stood_before_does_not_count_even_if_the_profiler_knows_its_size():
    """As it does if an earlier measurement saw the address allocated: 4000 bytes below nothing would hide the rest."""
    at, elsewhere = 0xA, 0xB
    given_back = (1, at, -4000)
    assert peak_of([given_back, (2, elsewhere, 3600)]) == 3600
    assert peak_of([(3, elsewhere, 900), given_back, (2, at, 3600), (5, at, 3500), (4, at, -3600)]) == 4500


def test_gradients_and_workspace_of_before_are_given_back():
    w = torch.nn.Parameter(torch.ones(250))
    kept, released = {}, []

    def call():
        kept.setdefault("buffer", torch.empty(750))
        w.grad = torch.ones(250) if w.grad is None else w.grad

    def release():
        released.append(kept.pop("buffer").nbytes)

    assert candidate_peak(Candidate("a", call, [w], release)) == 4 * (750 + 250)
    assert released == [3000, 3000]
    assert w.grad is None
