"""The second derivatives of an objective at a point."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..autograd import door
from ..nn import MLP, Objective
from ..nn.lean import group_of, net_of
from ..nn.mlp import is_untouched
from ..nn.objective import check_decay, goal_of
from ..training.problem import Batch, Goal, Net, sum_dtype
from . import dense, diagonals, inputs, kfac, products
from .dense import Layer
from .density import Density, stochastic_lanczos
from .kfac import Kronecker
from .lanczos import WHICH, Random, lanczos
from .low_rank import LowRank
from .passes import Passes, Write
from .rows import Rows
from .vectors import Blocks, Space, Vector


class Curvature:
    """∂²J/∂θ² of J = L + λ/2 (‖W1‖² + ‖W2‖²) at an MLP's parameters θ, on a batch, in closed form.

    The forward pass and the backward pass down to ∂L/∂H are made once, here; every method reads them. No graph is made
    or needed. The parameters are copied: a later training step does not change what this object says. x is not copied,
    nor are targets y.

    H is the Hessian; GGN the generalised Gauss–Newton matrix Σ_b (∂o_b/∂θ)ᵀ S_b (∂o_b/∂θ), with S_b = ∂²L/∂o_b², plus
    λ on the weights: for these losses it is positive semidefinite, and the Fisher information of cross-entropy.
    θ are all parameters in the order of ``mlp.parameters()``, frozen or not; n is their number. All is computed in
    the parameters' dtype, float32 at least. At a kink of φ, φ″ is PyTorch's: relu's is 0 everywhere, and H differs from
    the GGN all the same, in the blocks where W1 meets W2.

    Args:
        mlp: the net, or an `Objective` with the net, the loss and λ in it.
        x: inputs, shape (..., d).
        y: class indices, shape (...), or targets, shape (..., q).
        row_weight: weight of each row, shape (...), as of `Objective.forward`.
        loss: as of `Objective`.
        weight_decay: as of `Objective`.
        tile_rows: None keeps the pass over all rows. A number, or the one that an Objective has, makes it anew in each
            call, so many rows at a time, and adds up: memory does not grow with the batch, and each call takes one
            large product more.
        process_group: the processes whose rows make up the batch together. Every method is then called by all of them,
            with the same arguments, and returns the same on each: of the whole batch, but for the inputs' derivatives.
        local: where there are several processes, leave each to itself.
        **options: what else `Objective` takes (reduction, label_smoothing, ignore_index, class_weight, validate).

    Raises:
        TypeError, ValueError: as of `Objective` and its ``forward``; options beside an Objective, which has its own.
        RuntimeError: hooks on the net or its layers, which would be passed by; several processes, and neither
            process_group nor local; a call under torch.compile or torch.func (make the object outside; its methods
            can be compiled, but for those of Lanczos).
    """

    def __init__(
        self, mlp: MLP | Objective, x: Tensor, y: Tensor, row_weight: Tensor | None = None, *,
        loss: str | None = None, weight_decay: float | None = None, tile_rows: int | None = None,
        process_group: Any = None, local: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        op = "Curvature"
        if tile_rows is None and isinstance(mlp, Objective) and isinstance(mlp.tile_rows, int):
            tile_rows = mlp.tile_rows
        mlp, goal, validate = _subject(mlp, loss, weight_decay, options)
        net, group = net_of(mlp, op), group_of(process_group, local, op)
        if tile_rows is not None and (not isinstance(tile_rows, int) or isinstance(tile_rows, bool) or tile_rows < 1):
            raise ValueError(f"{op}: tile_rows must be None or a positive int, got {tile_rows!r}")
        for name, first, second in (("weight", net.w1, net.w2), ("bias", net.b1, net.b2)):
            if first is second and first is not None:
                raise ValueError(f"{op}: fc1.{name} and fc2.{name} must be two tensors, got one")
        given = door.lean_arguments(x, y, *net[:4], goal.loss, goal.class_weight, row_weight, validate, op)
        if given is None:
            raise RuntimeError(f"{op}: is made eagerly, from plain tensors; its methods can be compiled")
        dtype = sum_dtype(net.w1.dtype)
        with torch.no_grad():
            w1, b1, w2, b2 = (None if p is None else p.to(dtype, copy=True) for p in net[:4])
            self._net = Net(w1, b1, w2, b2, net.phi)  # type: ignore[arg-type]
            class_weight, row_weight = (
                None if w is None else w.clone() for w in (given.class_weight, given.row_weight)
            )  # fmt: skip
            self._goal = goal._replace(class_weight=class_weight)
            y = given.y if goal.loss.takes_classes else given.y.detach().to(dtype)
            batch = Batch(given.x.detach().to(dtype), y, row_weight)
        self._space = Space(Blocks(*self._net[:4]))
        self._biases = (net.b1 is not None, net.b2 is not None)
        self._lead = x.shape[:-1]
        self._passes = Passes(self._net, self._goal, batch, tile_rows, group)

    @property
    def _layers(self) -> tuple[Layer, Layer]:
        d, h, q = self._net.sizes
        first = Layer(0, h, d, self._biases[0])
        return first, Layer(first.stop, q, h, self._biases[1])

    @property
    def n(self) -> int:
        """The number of parameters."""
        return self._space.dimension

    # -------------------------------------------------------------------------------------------------- products

    def gradient(self) -> dict[str, Tensor]:
        """∂J/∂θ, by the names of ``mlp.named_parameters()``."""
        gradient = self._passes.sum(lambda rows: diagonals.gradient(rows, *self._biases))
        return self._space.named(self._decayed(gradient, self._net))

    def hvp(self, v: Vector) -> Any:
        """H v, in the form of v.

        Args:
            v: one vector: flat, shape (n,), in the order of ``torch.nn.utils.parameters_to_vector``; a dict by
                parameter name; or a list in the order of ``mlp.parameters()``. Its dtype is that of the parameters,
                float32 at least.

        Raises:
            TypeError, ValueError: v is none of these.
        """
        return self._product(v, products.hessian_product, "hvp", "v")

    def hvp_block(self, V: Vector) -> Any:
        """H v for each of k vectors in one pass, whose products are k times as wide.

        Args:
            V: k vectors as of `hvp`, with k in front: shape (k,n), or a dict or list of (k, …) tensors.

        Raises:
            TypeError, ValueError: as of `hvp`.
        """
        return self._product(V, products.hessian_product, "hvp_block", "V", block=True)

    def ggnvp(self, v: Vector) -> Any:
        """GGN v, in the form of v, which is as of `hvp`."""
        return self._product(v, products.ggn_product, "ggnvp", "v")

    def ggnvp_block(self, V: Vector) -> Any:
        """GGN v for each of k vectors in one pass; V as of `hvp_block`."""
        return self._product(V, products.ggn_product, "ggnvp_block", "V", block=True)

    def _product(
        self, v: Vector, product: Callable[[Rows, Blocks], Blocks], op: str, name: str, block: bool = False
    ) -> Any:
        tangent, give_back = self._space.read(v, op, name, block)
        return give_back(self._decayed(self._passes.sum(lambda rows: product(rows, tangent)), tangent))

    # ------------------------------------------------------------------------------------------------- diagonals

    def diagonal(self) -> dict[str, Tensor]:
        """∂²J/∂θ_i² for each parameter, by name: one product of the size of X, and no further pass."""
        return self._diagonal(ggn=False)

    def ggn_diagonal(self) -> dict[str, Tensor]:
        """The diagonal of the GGN, by name: never negative (but for weights below 0)."""
        return self._diagonal(ggn=True)

    def trace(self, *, ggn: bool = False) -> Tensor:
        """Σ_i ∂²J/∂θ_i² (or the GGN's trace), 0-dim, without a product of the size of X."""
        total = self._passes.sum(lambda rows: diagonals.trace(rows, ggn, *self._biases))
        decay = self._goal.weight_decay
        return total + decay * (self._net.w1.numel() + self._net.w2.numel()) if decay else total

    def _diagonal(self, ggn: bool) -> dict[str, Tensor]:
        diagonal = self._passes.sum(lambda rows: diagonals.diagonal(rows, ggn, *self._biases))
        return self._space.named(self._decayed(diagonal, None))

    # -------------------------------------------------------------------------------------------------- matrices

    def dense(self, *, ggn: bool = False) -> Tensor:
        """H (or the GGN), shape (n,n), in the order of ``torch.nn.utils.parameters_to_vector``.

        Three matrix products over all rows, made in parts; symmetric blocks are computed once. It takes n² numbers of
        memory, and less than half as many beside them and some dozens of MB, but for a net with very many units of
        very few inputs: indices take as much again there.
        """
        layers = self._layers
        return self._matrix(layers, lambda H, rows, write: dense.add_hessian(H, rows, ggn, layers, write))

    def blocks(self, kind: str = "layer", *, ggn: bool = False) -> Any:
        """Exact blocks on H's (or the GGN's) diagonal.

        Args:
            kind: ``"layer"``: a dict ``{"fc1": (h(d+1), h(d+1)), "fc2": (q(h+1), q(h+1))}``, each in its layer's own
                order, weight and then bias. ``"hidden_unit"``: X̃ᵀ diag(w_:j) X̃, shape (h,d+1,d+1), of row j of W1
                and b1_j. ``"output"``: H̃ᵀ diag(S_d,:k) H̃, shape (q,h+1,h+1), of row k of W2 and b2_k. Without a bias
                each is smaller by it. The last two take one matrix product.
            ggn: of the GGN.

        Raises:
            ValueError: an unknown kind.
        """
        first, second = self._layers
        if kind == "layer":
            second = second._replace(start=0)
            return {
                "fc1": self._matrix((first,), lambda H, rows, w: dense.add_first_layer(H, rows, ggn, first, w)),
                "fc2": self._matrix((second,), lambda H, rows, w: dense.add_second_layer(H, rows, second, w)),
            }
        if kind == "hidden_unit":
            layer = first
            blocks = self._passes.sum(
                lambda rows: dense.unit_blocks(diagonals.hidden_curvature(rows, ggn), rows.x, first.bias)
            )
        elif kind == "output":
            layer = second
            blocks = self._passes.sum(
                lambda rows: dense.unit_blocks(rows.S.diagonal(second.units), rows.h, second.bias)
            )
        else:
            raise ValueError(f"blocks: kind must be one of layer, hidden_unit, output; got {kind!r}")
        blocks.diagonal(dim1=1, dim2=2)[:, : layer.inputs] += self._goal.weight_decay
        return blocks

    def _matrix(self, layers: tuple[Layer, ...], add: Callable[[Tensor, Rows, Write], None]) -> Tensor:
        """What ``add`` writes of these layers, and λ."""
        n = layers[-1].stop
        H = self._passes.into(self._net.w1.new_empty(n, n), add, dense.most_rows(n, layers))
        for layer in layers:
            H.diagonal()[layer.decayed] += self._goal.weight_decay
        return H

    def kfac(self) -> dict[str, Kronecker]:
        """Kronecker factors of the GGN of L, by layer ("fc1", "fc2"): the layer's block is about G ⊗ A, without λ.

        A = ÃᵀÃ / B of the layer's inputs, G = Σ_b of the curvature in its outputs. Exact for one row.
        """
        sums = self._passes.sum(lambda rows: kfac.sums(rows, *self._biases))
        weight = sums.weight.where(sums.weight != 0, 1.0)
        return {"fc1": Kronecker(sums.xx / weight, sums.G1), "fc2": Kronecker(sums.hh / weight, sums.G2)}

    # -------------------------------------------------------------------------------------------------- spectrum

    def eigsh(
        self, k: int = 6, *, which: str = "LM", ggn: bool = False, tolerance: float | None = None,
        max_steps: int = 500, generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """K eigenvalues (k,) of H (or the GGN) at an end of its spectrum, and eigenvectors (n,k), by Lanczos.

        An eigenvalue that is there several times may be found fewer times. Each step takes one product and keeps one
        vector of n numbers.

        Args:
            k: how many, 1 ≤ k ≤ n.
            which: "LM" (largest magnitude first), "LA" (largest first) or "SA" (smallest first).
            ggn: of the GGN.
            tolerance: of the residuals ‖H u − θ u‖, relative to the largest |θ|; None for ε^⅔ of the dtype.
            max_steps: the most products.
            generator: of the random vectors that it starts from.

        Raises:
            ValueError: k or which out of range.
            RuntimeError: not converged within max_steps.
        """
        if not isinstance(k, int) or not 1 <= k <= min(self.n, max_steps):
            most = f"n = {self.n}" if self.n <= max_steps else f"max_steps = {max_steps}"
            raise ValueError(f"eigsh: k must be an int between 1 and {most}, got {k}")
        if which not in WHICH:
            raise ValueError(f"eigsh: which must be one of {', '.join(WHICH)}; got {which!r}")
        if tolerance is None:
            tolerance = torch.finfo(self._space.dtype).eps ** (2 / 3)
        return lanczos(self.ggnvp if ggn else self.hvp, self._random(generator), k, which, tolerance, max_steps)

    def spectral_density(
        self, *, ggn: bool = False, probes: int = 8, steps: int = 64, generator: torch.Generator | None = None
    ) -> Density:
        """How all n eigenvalues of H (or the GGN) lie, estimated by stochastic Lanczos quadrature.

        It takes probes · steps products and keeps ``steps`` vectors of n numbers at a time.

        Args:
            ggn: of the GGN.
            probes: random vectors; what the estimate misses of a trace falls with their square root.
            steps: products for each, 1 at least: the more, the finer it resolves.
            generator: of the random vectors.

        Raises:
            ValueError: probes or steps below 1.
        """
        if probes < 1 or steps < 1:
            raise ValueError(f"spectral_density: probes and steps must be at least 1, got {probes} and {steps}")
        return stochastic_lanczos(self.ggnvp if ggn else self.hvp, self._random(generator), probes, steps)

    def _random(self, generator: torch.Generator | None) -> Random:
        """Normal vectors (n,), the same on each process."""

        def random() -> Tensor:
            v = torch.randn(self.n, dtype=self._space.dtype, device=self._space.device, generator=generator)
            return self._passes.same_everywhere(v)

        return random

    def low_rank(self, k: int = 6, *, ggn: bool = False, **options: Any) -> LowRank:
        """U diag(λ) Uᵀ + diag(δ): the k leading eigenpairs, and the δ that makes the diagonal exact.

        Args:
            k: the rank.
            ggn: of the GGN.
            **options: as of `eigsh`.

        Raises:
            ValueError, RuntimeError: as of `eigsh`.
        """
        values, vectors = self.eigsh(k, ggn=ggn, **options)
        diagonal = torch.cat([part.flatten() for part in self._diagonal(ggn).values()])
        return LowRank(values, vectors, diagonal - (vectors.square() * values).sum(1))

    def to_scipy(self, *, ggn: bool = False) -> Any:
        """H (or the GGN) as a ``scipy.sparse.linalg.LinearOperator`` of shape (n,n), on numpy arrays.

        Raises:
            ModuleNotFoundError: there is no scipy.
        """
        from scipy.sparse.linalg import LinearOperator

        product = products.ggn_product if ggn else products.hessian_product

        def times(columns: Any) -> Any:
            V = torch.as_tensor(columns.T).to(self._space.device, self._space.dtype).reshape(-1, self.n)
            result = self._product(V, product, "to_scipy", "V", block=True).cpu().numpy()
            return result.T.reshape(columns.shape)

        dtype = torch.empty(0, dtype=self._space.dtype).numpy().dtype
        return LinearOperator((self.n, self.n), matvec=times, rmatvec=times, matmat=times, rmatmat=times, dtype=dtype)

    # ---------------------------------------------------------------------------------------------------- inputs

    def input_hessian(self) -> Tensor:
        """∂²J/∂x_b² of each row, shape (...,d,d) for x (...,d); rows are independent, so this is all there is."""
        d = self._net.sizes[0]
        return self._passes.each(inputs.input_hessian).view(*self._lead, d, d)

    def laplacian(self) -> Tensor:
        """Σ_i ∂²o_k/∂x_i² of the outputs (not of the loss), shape (...,q): one product, as a PINN asks for."""
        return self._passes.each(inputs.laplacian).view(*self._lead, self._net.sizes[2])

    # ------------------------------------------------------------------------------------------------ what they share

    def _decayed(self, blocks: Blocks, factor: Blocks | Net | None) -> Blocks:
        """``blocks`` + λ · ``factor`` (None: 1) in the weights, and not in the biases."""
        decay = self._goal.weight_decay
        if not decay:
            return blocks
        w1, w2 = (1.0, 1.0) if factor is None else (factor.w1, factor.w2)
        return blocks._replace(w1=torch.add(blocks.w1, w1, alpha=decay), w2=torch.add(blocks.w2, w2, alpha=decay))


_OPTIONS = (
    "reduction",
    "label_smoothing",
    "ignore_index",
    "class_weight",
    "validate",
)  # of Objective, beside loss and weight_decay


def _subject(
    mlp: MLP | Objective, loss: str | None, weight_decay: float | None, options: dict[str, Any]
) -> tuple[MLP, Goal, bool]:
    """The net, what is to become small, and whether labels are checked on an accelerator too."""
    op = "Curvature"
    named: dict[str, Any] = {"loss": loss, "weight_decay": weight_decay}
    given = {name: value for name, value in named.items() if value is not None} | options
    if unknown := set(options) - {*_OPTIONS}:
        raise TypeError(f"{op}: options are {', '.join(_OPTIONS)}; got {', '.join(sorted(unknown))}")
    if isinstance(mlp, Objective):
        if given:
            raise ValueError(
                f"{op}: an Objective has its own {', '.join(given)}; give the mlp with options, or it alone"
            )
        check_decay(mlp.weight_decay, op)  # again: it is an attribute that can be set
        goal, validate, mlp = Goal(mlp.loss, mlp.class_weight, mlp.weight_decay), mlp.validate, mlp.mlp
    elif isinstance(mlp, MLP):
        validate = given.pop("validate", False)
        goal = goal_of(op, mlp.out_features, **given)
    else:
        raise TypeError(f"{op}: mlp must be a torch_manual_bp.MLP or Objective, got {type(mlp).__name__}")
    if type(mlp).forward is not MLP.forward or not is_untouched(mlp):
        raise RuntimeError(
            f"{op}: mlp ({type(mlp).__name__}) must not carry hooks or a forward of its own, which are not called"
        )
    return mlp, goal, validate
