#!/usr/bin/env python3
"""Checks every op and Function on a device against the float64 equations and writes a JSON report.

python scripts/gpu_check.py                      # the first CUDA device, report under docs/gpu/
python scripts/gpu_check.py --device cpu --out /tmp/cpu.json
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from torch_manual_bp import kernels
from torch_manual_bp.verify import check_device, report


def main() -> int:
    """Run the checks; exit status 0 when all hold, 1 when one does not, 2 without the device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, help="the report's path; docs/gpu/<device name>.json by default")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print(
            f"gpu_check: no CUDA device is available to torch {torch.__version__}; nothing was checked", file=sys.stderr
        )
        return 2
    findings = list(check_device(options.device))
    summary = report(findings, options.device)
    name = str(summary["device"]).replace(" ", "-").lower()
    out = options.out or Path(__file__).parent.parent / "docs" / "gpu" / f"{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(summary, indent=1) + "\n")
    failed = [finding for finding in findings if not finding.ok]
    for finding in failed:
        print(f"FAILED {finding.dtype} {finding.check}: error {finding.error:.2e}, eager's {finding.eager_error:.2e}")
    held = f"{len(findings) - len(failed)} of {len(findings)} checks hold"
    print(f"{held} on {summary['device']} ({kernels.backend()}): {out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
