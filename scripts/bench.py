#!/usr/bin/env python3
"""Times forward and backward of the usual loop against eager PyTorch and torch.compile, in turn in one process.

python scripts/bench.py                       # table on the terminal, and docs/benchmarks/usual_loop.{md,json}
python scripts/bench.py --no-compile --out /tmp/figures
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from torch_manual_bp.bench import BusyMachineError, bench_usual_loop
from torch_manual_bp.bench.usual_loop import as_json, environment, markdown


def main() -> int:
    """Run the bench; exit status 3 where the machine is too busy for the figures to mean anything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=("float64", "float32", "bfloat16", "float16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--activation", nargs="+", default=["relu", "gelu"])
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds a row")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "benchmarks")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    rows = []
    try:
        for row in bench_usual_loop(
            activations=tuple(options.activation), dtype=dtype, device=options.device,
            compiled=not options.no_compile, budget=options.budget,
        ):  # fmt: skip
            print(f"{row.shape} {row.activation}: {row.over_eager:.2f} of eager's time", flush=True)
            rows.append(row)
    except BusyMachineError as busy:
        print(f"bench: {busy}", file=sys.stderr)
        return 3
    where, command = environment(options.device), " ".join(["python", "scripts/bench.py", *sys.argv[1:]])
    options.out.mkdir(parents=True, exist_ok=True)
    table = markdown(rows, command, where)
    (options.out / "usual_loop.md").write_text(table)
    (options.out / "usual_loop.json").write_text(json.dumps(as_json(rows, command, where), indent=1) + "\n")
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
