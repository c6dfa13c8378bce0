"""How many directions there are in which the Gauss–Newton matrix is known to be 0, without its eigenvalues."""

from collections.abc import Mapping

from torch import Tensor

from ..nn import Objective


def known_null(diagonal: Mapping[str, Tensor], objective: Objective) -> int:
    """How many null directions of the GGN its diagonal and the loss tell of, linearly independent.

    There may be others: of relu, of inputs that depend on one another, of fewer outputs Bq than parameters.

    A positive semidefinite matrix with a 0 on its diagonal is 0 in that row: a hidden unit that no row of the batch
    reaches, or an input that is 0 everywhere, where λ is 0. Cross-entropy does not change when the same is added to
    all outputs: adding the same to all of b2, or to all rows of W2, is a null direction of L (and so of H), and
    of the GGN; the penalty makes λ of those of W2.

    Args:
        diagonal: the GGN's, by parameter name.
        objective: whose it is.
    """
    shifted = []  # along which adding the same to all outputs k changes nothing
    if objective.loss.takes_classes:
        shifted.append("fc2.bias")
        if objective.weight_decay == 0:
            shifted.append("fc2.weight")
    zeros = sum(int((part == 0).sum()) for part in diagonal.values())
    return zeros + sum(int((diagonal[name] != 0).any(0).sum()) for name in shifted if name in diagonal)
