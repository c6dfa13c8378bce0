import json

import pytest
import torch

from torch_manual_bp.verify import Checked, Finding, Measured, Sanitized, Session, name_of
from torch_manual_bp.verify.finding import skipped

CPU = torch.device("cpu")
HOLDS = Finding("dx: a", "torch.float32", 3e-7, 2e-7, True, group="first order")
LUCK = Finding("J: a", "torch.float32", 2e-7, 1e-12, True, group="first order")
FAILED = Finding("dw1: a", "torch.float32", 1.0, 1e-6, False, group="first order")
GOAL = {"figure": "b / a", "value": 1.95, "goal": "≥ 2", "verdict": "not met"}
SPEED = Measured(
    "speed", {"rows": [{"labels": {"case": "one"}, "goals": [GOAL]}]}, "A | table\n\n![speed](speed.png)\n", "", 2.0
)


@pytest.fixture
def session():
    checked = [
        Checked("first order", [HOLDS, LUCK, FAILED], 1.25),
        Checked("CUDA graphs", [skipped("CUDA graphs", "exists on CUDA only")], 0.0),
    ]
    return Session(
        "the command", CPU, checked, [SPEED], [Sanitized("memcheck", 0, "ERROR SUMMARY: 0 errors")], ["A note."]
    )


def test_json_has_the_failures_in_full_and_of_the_rest_the_worst(session):
    data = json.loads(json.dumps(session.data()))
    assert data["command"] == "the command" and data["torch"] == torch.__version__
    assert [failure["check"] for failure in data["failed"]] == ["dw1: a"]
    first, graphs = data["checks"]
    assert {k: first[k] for k in ("name", "seconds", "holds", "FAILED", "skipped")} == {
        "name": "first order", "seconds": 1.25, "holds": 2, "FAILED": 1, "skipped": 0,
    }  # fmt: skip
    assert first["worst"]["check"] == "dw1: a" and first["worst"]["ratio"] == 1e6
    assert graphs["worst"] is None
    assert data["skipped"] == [{"group": "", "check": "CUDA graphs", "why": "exists on CUDA only"}]
    assert data["measurements"][0]["data"]["rows"][0]["goals"] == [GOAL]
    assert data["sanitizer"] == [{"tool": "memcheck", "errors": 0, "said": "ERROR SUMMARY: 0 errors"}]


def test_eager_right_by_luck_is_not_the_worst(session):
    session.checked[0].findings.remove(FAILED)
    worst = session.data()["checks"][0]["worst"]
    assert worst["check"] == "J: a" and worst["ratio"] == pytest.approx(2e-7 / torch.finfo(torch.float32).eps)


def test_markdown_by_hand(session):
    text = session.markdown()
    for line in (
        "| first order | 2 | 1 | 0 | 1000000.00 | 1.2 |",
        "| CUDA graphs | 0 | 0 | 1 | – | 0.0 |",
        "- **first order**, dw1: a torch.float32: error 1.00e+00, eager's 1.00e-06",
        "- CUDA graphs: exists on CUDA only",
        "| memcheck | 0 | ERROR SUMMARY: 0 errors |",
        "| speed | one | b / a | ≥ 2 | 1.95 | not met |",
        "### speed",
        f"![speed]({name_of(CPU)}/speed.png)",
        "A note.",
    ):
        assert line in text.splitlines(), line


def test_only_what_is_wrong_makes_it_wrong(session):
    assert not session.ok
    session.checked[0].findings.remove(FAILED)
    assert session.ok  # a goal that was not met is no error
    session.sanitized.append(Sanitized("racecheck", 2, "RACECHECK SUMMARY: 2 hazards displayed"))
    assert not session.ok
    session.sanitized[-1] = Sanitized("racecheck", None, "not done after 3 seconds")
    assert session.ok


def test_files_are_written(session, tmp_path):
    path = session.write(tmp_path / "new")
    assert path.read_text() == session.markdown() and path.stem == name_of(CPU)
    assert json.loads(path.with_suffix(".json").read_text())["checks"][0]["FAILED"] == 1
