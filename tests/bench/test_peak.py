import torch

from torch_manual_bp.bench.peak import candidate_peak
from torch_manual_bp.bench.problem import Candidate


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
