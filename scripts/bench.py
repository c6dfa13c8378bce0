#!/usr/bin/env python3
"""Measures time and memory against eager PyTorch, torch.compile and others, in turn in one process.

python scripts/bench.py                          # every question; tables on the terminal and in docs/benchmarks
python scripts/bench.py step --repeat 3          # one question, medians of three runs
python scripts/bench.py step growth --no-compile --out runs/figures
python scripts/bench.py bandwidth step --device cuda     # at sizes for a GPU; tables in docs/gpu/<device>
"""

import argparse
import shlex
import sys
from pathlib import Path

import torch

from torch_manual_bp.bench import QUESTIONS, BusyMachineError, Settings, answer, write, write_text
from torch_manual_bp.verify import name_of

DOCS = Path(__file__).resolve().parent.parent / "docs"


def main() -> int:
    """Run the bench; exit status 3 where the machine is too busy for the figures to mean anything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "question", nargs="*", metavar="question", help=f"any of {', '.join(QUESTIONS)}; default: the device's"
    )
    parser.add_argument("--dtype", default="float32", choices=("float64", "float32", "bfloat16", "float16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--activation", nargs="+", help="default: each question's own")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds a row")
    parser.add_argument("--repeat", type=int, default=1, help="runs; a figure within 5 %% of its goal needs three")
    parser.add_argument(
        "--keep-noisy", action="store_true", help="write each row when it is there, and those of a busy machine too"
    )
    parser.add_argument("--out", type=Path, help="default: docs/benchmarks, or docs/gpu/<device>")
    options = parser.parse_args()
    if unknown := set(options.question) - set(QUESTIONS):
        parser.error(f"question must be any of {', '.join(QUESTIONS)}; got {', '.join(sorted(unknown))}")
    if options.repeat < 1:
        parser.error(f"--repeat must be at least 1, got {options.repeat}")
    if options.device != "cpu":
        if not torch.cuda.is_available():
            print(f"bench: no CUDA device is available to torch {torch.__version__}", file=sys.stderr)
            return 2
        torch.cuda.set_device(options.device if ":" in options.device else 0)  # where events and graphs are made
    settings = Settings(
        options.device, options.budget, not options.no_compile,
        tuple(options.activation) if options.activation else None, getattr(torch, options.dtype), options.keep_noisy,
    )  # fmt: skip
    out = options.out or (
        DOCS / "benchmarks" if settings.on_cpu else DOCS / "gpu" / name_of(torch.device(options.device))
    )
    command = shlex.join(["python", "scripts/bench.py", *sys.argv[1:]])
    for name in options.question or [name for name, q in QUESTIONS.items() if not (q.gpu_only and settings.on_cpu)]:
        question = QUESTIONS[name]
        try:
            report = answer(
                question, settings, command, options.repeat,
                tell=lambda row, name=name: print(name, *row.labels.values(), sep=" · ", file=sys.stderr, flush=True),
                so_far=(lambda report: write_text(report, out)) if options.keep_noisy else lambda report: None,
            )  # fmt: skip
        except BusyMachineError as busy:
            print(f"bench: {name}: {busy}", file=sys.stderr)
            return 3
        print(write(report, out).markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
