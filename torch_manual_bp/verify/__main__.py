"""Runs checks in this process and prints what they find, a line of JSON each: what the supervisor starts and reads.

python -m torch_manual_bp.verify --device cuda "hidden ops" "lean steps"
"""

import argparse
import json
import sys
import warnings
from dataclasses import asdict

import torch

from .checks import CHECKS, run_check
from .setting import Setting

LOST = 3  # exit status: the device answers no more, a new process is needed


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0, or `LOST` after the check that the device did not survive."""
    parser = argparse.ArgumentParser(prog="python -m torch_manual_bp.verify", description=__doc__)
    parser.add_argument("check", nargs="*", metavar="check", help=f"any of {'; '.join(CHECKS)}; default: all")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", type=int, nargs=4, metavar=("B", "d", "h", "q"), default=Setting.sizes)
    parser.add_argument("--large-elements", type=int, default=Setting.large_elements)
    parser.add_argument("--compile-backend", default=Setting.compile_backend)
    options = parser.parse_args(arguments)
    if unknown := set(options.check) - set(CHECKS):
        parser.error(f"check must be any of {'; '.join(CHECKS)}; got {'; '.join(sorted(unknown))}")
    warnings.simplefilter("ignore")  # that float16 is slow on a CPU, for one, is known
    setting = Setting(
        torch.device(options.device), tuple(options.sizes), options.large_elements, options.compile_backend
    )
    for name in options.check or CHECKS:
        _tell({"begin": name})
        for finding in run_check(name, setting):
            _tell(asdict(finding))
        alive = _answers(setting.device)
        _tell({"end": name})
        if not alive:
            return LOST
    return 0


def _tell(event: dict[str, object]) -> None:
    print(json.dumps(event), flush=True)


def _answers(device: torch.device) -> bool:
    """Whether the device still computes: after an illegal address or an assert nothing does until the process ends."""
    try:
        return torch.ones(2, device=device).sum().item() == 2
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return False


if __name__ == "__main__":
    sys.exit(main())
