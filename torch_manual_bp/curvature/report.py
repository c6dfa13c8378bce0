"""A spectrum in a report: as data, as a table of numbers, and in the sentences that a reader needs beside them."""

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..nn import Objective
from .curvature import Curvature
from .spectrum import Spectrum, spectrum

KEYS = {False: "hessian", True: "ggn"}
TITLES = {"hessian": "H", "ggn": "GGN"}


def report(
    name: str, objective: Objective, x: Tensor, y: Tensor, matrices: Sequence[bool], k: int | None,
    exact_up_to: int, seed: int, heard: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Any], list[Spectrum]]:  # fmt: skip
    """What there is to say of J's curvature: numbers and texts, as JSON has them, and the spectra.

    Args:
        name: what the net and its data are called.
        objective: J; where its ``tile_rows`` is a number, so many rows are computed at a time.
        x: inputs of all rows, shape (N,d).
        y: their class indices (N,) or targets (N,q).
        matrices: of which: False for H, True for the GGN.
        k: how many of the largest eigenvalues; None: as many as `spectrum` has without it.
        exact_up_to: as of `spectrum`.
        seed: of the estimates.
        heard: is told what is done next.

    Raises:
        TypeError, ValueError: as of `Curvature` and `spectrum`.
        ValueError: J or its gradient's norm is not finite, or eigenvalues are not found.
    """
    mlp = objective.mlp
    with torch.no_grad():
        J = _finite("J", float(objective(x, y)))
    c = Curvature(objective, x, y)
    norm = _finite("‖∂J/∂θ‖", float(torch.cat([part.flatten() for part in c.gradient().values()]).norm()))
    generator = torch.Generator(x.device).manual_seed(seed)
    spectra = []
    for ggn in matrices:
        how = "all eigenvalues" if c.n <= exact_up_to else "Lanczos"
        heard(f"{TITLES[KEYS[ggn]]} of {c.n} parameters: {how} …")
        try:
            spectra.append(spectrum(c, objective, ggn, k, exact_up_to, generator))
        except torch.linalg.LinAlgError as error:
            raise ValueError(f"curvature: eigenvalues cannot be computed: {error}") from error
    content = {
        "net": {
            "name": name, "inputs": mlp.in_features, "hidden": mlp.hidden_features, "outputs": mlp.out_features,
            "activation": mlp.activation, "hidden_bias": mlp.fc1.bias is not None,
            "output_bias": mlp.fc2.bias is not None,
        },
        "loss": objective.loss.name, "weight_decay": objective.weight_decay, "rows": len(x), "n": c.n,
        "dtype": str(x.dtype).removeprefix("torch."), "seed": seed, "torch": str(torch.__version__),
        "J": J, "gradient_norm": norm, **{KEYS[s.ggn]: _as_data(s) for s in spectra},
    }  # fmt: skip
    return content, spectra


def spectra_csv(spectra: Sequence[Spectrum]) -> bytes:
    """Every eigenvalue, or value of a quadrature, and for how many it stands, as a CSV file's content."""
    file = io.StringIO()
    file.write("matrix,eigenvalue,count\n")
    for s in spectra:
        file.writelines(
            f"{KEYS[s.ggn]},{value!r},{number!r}\n"
            for value, number in zip(s.values.tolist(), s.counts.tolist(), strict=True)
        )
    return file.getvalue().encode()


def caption(report: dict[str, Any]) -> str:
    """What a picture of it shows, and how that was computed."""
    exact = next(report[name]["exact"] for name in KEYS.values() if name in report)
    how = "all eigenvalues, exact" if exact else "stochastic Lanczos quadrature (traces are exact)"
    return f"{headline(report)} · {how}"


def headline(report: dict[str, Any]) -> str:
    """The net, its data and its objective in a line."""
    net = report["net"]
    sizes = (report["rows"], net["inputs"], net["hidden"], net["outputs"])
    return (
        f"{net['name']} · B, d, h, q = {', '.join(map(str, sizes))} · {net['activation']} · {report['loss']} · "
        f"λ = {report['weight_decay']:g} · {report['dtype']} · n = {report['n']}"
    )


def notes(report: dict[str, Any]) -> list[str]:
    """What a reader must know of these numbers, in a sentence each."""
    notes = []
    found = {key: report[key] for key in TITLES if key in report}
    exact = all(data["exact"] for data in found.values())
    if exact:
        notes.append("All eigenvalues were computed. Null: |λ| ≤ rounding.")
    else:
        notes.append(
            "Too many parameters for all eigenvalues (--exact-up-to). Those shown are Lanczos's,\n"
            "the picture is an estimate, and ≥ says what holds for certain."
        )
        notes.append("Products alone tell nothing certain of the smallest |λ|: the condition is not known.")
    if report["loss"] == "cross_entropy" and report["net"]["output_bias"]:
        notes.append("Cross-entropy does not change when the same is added to all of b2: that direction is null.")
    if report["loss"] == "cross_entropy" and not report["weight_decay"]:
        notes.append("Cross-entropy without λ: adding the same to all rows of W2 changes nothing: h null directions.")
    return notes


def _finite(what: str, value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"curvature: {what} must be finite, got {value}")
    return value


def _as_data(s: Spectrum) -> dict[str, Any]:
    data: dict[str, Any] = {
        "exact": s.exact, "trace": s.trace, "largest": s.largest, "smallest": s.smallest, "rounding": s.rounding,
        "negative": {"count": s.negative, "at_least": not s.exact and not s.ggn},
        "null": None if s.null is None else {"count": s.null, "at_least": not s.exact},
        "condition": s.condition,
        "diagonal": {name: entries._asdict() for name, entries in s.diagonal.items()},
    }  # fmt: skip
    if not s.exact:
        data["trace_of_the_estimate"] = float(s.values @ s.counts)
    return data
