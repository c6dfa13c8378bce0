#!/usr/bin/env python3
"""Answers every question that this project has about a GPU: is it right there, and how fast?

python scripts/gpu_check.py                              # ten minutes; docs/gpu/<device>.md and .json
python scripts/gpu_check.py --sanitize                   # the ops under compute-sanitizer as well
python scripts/gpu_check.py "CUDA graphs" "lean steps" --measure none
python scripts/gpu_check.py none --measure bandwidth step --budget-minutes 5
python scripts/gpu_check.py --device cpu --measure none --out runs/cpu
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

import torch

from torch_manual_bp import kernels
from torch_manual_bp.verify import (
    CHECK_COLUMNS,
    CHECKS,
    GOAL_COLUMNS,
    Sanitized,
    Session,
    check_rows,
    device_name,
    find_sanitizer,
    goal_rows,
    measure,
    name_of,
    sanitize,
    supervise,
)

ROOT = Path(__file__).resolve().parent.parent
MEASUREMENTS = (  # the most important first
    "bandwidth", "step", "memory", "usual_loop", "peers", "growth", "curvature", "hessian", "curvature_growth",
)  # fmt: skip
CHECKS_SHARE = 0.5  # of the time at most, as long as there is something to measure
SMALL = ("--large-elements", str(2**20), "--compile-backend", "aot_eager")  # what a CPU is tried with


def main() -> int:
    """Exit status 0 where everything is right, 1 where something is not, 2 without the device."""
    options = _options()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print(
            f"gpu_check: no CUDA device is available to torch {torch.__version__}; nothing was checked", file=sys.stderr
        )
        return 2
    device = torch.device(options.device)
    session = Session(shlex.join(["python", "scripts/gpu_check.py", *sys.argv[1:]]), device)
    if device.type == "cuda" and "cuda" not in kernels.backend():
        session.notes.append(f"This package's CUDA kernels are not built: {kernels.backend()} computes.")
    print(f"{device_name(device)}, kernels: {kernels.backend()}", *session.notes, sep="\n", flush=True)
    try:
        _look(session, options, time.monotonic() + 60 * options.budget_minutes)
    except KeyboardInterrupt:
        session.notes.append("It was interrupted: the rest was not looked at.")
    path = session.write(options.out)
    _print_table(CHECK_COLUMNS, check_rows(session.checked))
    _print_table(GOAL_COLUMNS, goal_rows(session.measured))
    for finding in session.failed[:20]:
        print(f"FAILED {finding.group}: {finding.check} {finding.dtype} {finding.note[:300]}")
    print(f"{'everything that was looked at is right' if session.ok else 'NOT RIGHT'}: {path}")
    return 0 if session.ok else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("check", nargs="*", metavar="check", help=f"any of {'; '.join(CHECKS)}; default: all; or none")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget-minutes", type=float, default=10.0, help="after which nothing further is begun")
    parser.add_argument(
        "--measure", nargs="*", default=MEASUREMENTS, help=f"any of {', '.join(MEASUREMENTS)}; default: all; or none"
    )
    parser.add_argument("--row-seconds", type=float, default=3.0, help="of the rounds of each row that is measured")
    parser.add_argument("--sanitize", action="store_true", help="run the ops under compute-sanitizer as well")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "gpu", help="the folder for the reports")
    options = parser.parse_args()
    for name, of in (("check", CHECKS), ("measure", MEASUREMENTS)):
        asked = [] if list(getattr(options, name)) == ["none"] else list(getattr(options, name))
        if unknown := set(asked) - set(of):
            parser.error(f"{name} must be any of {'; '.join(of)}; got {'; '.join(sorted(unknown))}")
        none = list(getattr(options, name)) == ["none"]
        setattr(options, name, [] if none else asked or list(of))
    return options


def _look(session: Session, options: argparse.Namespace, deadline: float) -> None:
    """Checks, measurements, compute-sanitizer, each as far as there is time; the report is written after each."""
    seconds = deadline - time.monotonic()
    share = CHECKS_SHARE if options.measure else 1.0
    of_worker = ["--device", options.device, *(SMALL if session.device.type == "cpu" else ())]
    for checked in supervise(options.check, of_worker, share * seconds):
        session.checked.append(checked)
        session.write(options.out)
        _say(seconds - (deadline - time.monotonic()), *check_rows([checked])[0][:4])
    bench = [sys.executable, str(ROOT / "scripts" / "bench.py"), "--device", options.device, "--keep-noisy"]
    for question in options.measure:
        command = [*bench, "--budget", str(options.row_seconds)]
        measured = measure(question, command, options.out / name_of(session.device), deadline - time.monotonic())
        session.measured.append(measured)
        session.write(options.out)
        said = measured.note or f"{len(measured.goals)} goals, {measured.seconds:.0f} s"
        _say(seconds - (deadline - time.monotonic()), question, said)
    if options.sanitize:
        _sanitize(session, options.device, deadline)


def _sanitize(session: Session, device: str, deadline: float) -> None:
    path = find_sanitizer()
    if path is None:
        session.sanitized.append(Sanitized("compute-sanitizer", None, "it is not installed here"))
        return
    for sanitized in sanitize(path, device, max(1.0, deadline - time.monotonic())):
        session.sanitized.append(sanitized)
        print(sanitized.tool, sanitized.errors, sanitized.said, flush=True)


def _say(seconds: float, name: str, *counts: str) -> None:
    print(f"{seconds:6.0f} s  {name:24}", *counts, flush=True)


def _print_table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows) if rows else ():
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print()


if __name__ == "__main__":
    sys.exit(main())
