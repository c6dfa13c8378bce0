import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torch_manual_bp.verify import Finding, check_device, report
from torch_manual_bp.verify import device as verify

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_check.py"


def test_everything_holds_on_the_cpu():
    findings = list(check_device("cpu", sizes=(33, 7, 19, 5)))
    assert len(findings) > 1500
    assert [finding for finding in findings if not finding.ok] == []


def test_a_wrong_kernel_is_found(monkeypatch):
    right = verify.kernels.dact_

    def without_a_column(dh, saved, activation, kind, bias_grad):
        sums = right(dh, saved, activation, kind, bias_grad)
        dh[:, -1] = 0
        return sums

    monkeypatch.setattr(verify.kernels, "dact_", without_a_column)
    wrong = {finding.check.split(":")[0] for finding in check_device("cpu", sizes=(9, 3, 5, 4)) if not finding.ok}
    assert {"dx", "dw1", "φ and φ′ kernels"} <= wrong
    assert "J" not in wrong


def test_report_puts_the_failures_first_and_is_json():
    findings = [
        Finding("dx: a", "torch.float32", 1e-7, 1e-7, True),
        Finding("dw1: a", "torch.float32", 1.0, 1e-7, False),
    ]
    summary = json.loads(json.dumps(report(findings, "cpu")))
    assert [failure["check"] for failure in summary["failed"]] == ["dw1: a"]
    assert summary["worst ratio to eager"] == 1.0 / 1e-7
    assert summary["torch"] == torch.__version__


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_script_says_that_there_is_no_gpu(tmp_path):
    run = subprocess.run([sys.executable, SCRIPT, "--out", tmp_path / "r.json"], capture_output=True, text=True)
    assert run.returncode == 2 and "no CUDA device" in run.stderr
    assert not (tmp_path / "r.json").exists()
