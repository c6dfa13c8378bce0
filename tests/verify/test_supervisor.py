"""Checks in a process of their own: whatever becomes of it, every check is accounted for."""

import sys
import time

import pytest

from torch_manual_bp.verify import Finding, supervise

# acts like `python -m torch_manual_bp.verify`: its arguments are checks, and what they are called is what they do
WORKER = """
import json, os, sys, time
def tell(**event): print(json.dumps(event), flush=True)
print("a library says hello")
print("[1, 2]")
for name in sys.argv[2:]:
    if name == "never begins": sys.exit(1)
    tell(begin=name)
    tell(check="one", dtype="torch.float32", error=1e-7, group=name)
    if name == "aborts":
        print("Assertion `label` failed.", file=sys.stderr, flush=True)
        os.abort()
    if name == "hangs": time.sleep(60)
    if name == "fails": tell(check="two", ok=False, note="so it is", group=name)
    tell(end=name)
    if name == "loses the device": sys.exit(3)
"""


def outcomes(*names, seconds=30.0, **options):
    worker = (sys.executable, "-c", WORKER, "--worker")
    return {c.name: c.findings for c in supervise(names, (), seconds, worker=worker, **options)}


def test_what_is_found_comes_through():
    found = outcomes("holds", "fails")
    one = Finding("one", "torch.float32", 1e-7)
    assert [f.check for f in found["holds"]] == ["one"] and found["holds"][0].error == one.error
    assert [f.ok for f in found["fails"]] == [True, False] and found["fails"][1].note == "so it is"


@pytest.mark.parametrize("name", ["aborts", "hangs"])
def test_a_check_that_takes_the_process_along_costs_itself_only(name):
    found = outcomes("a", name, "b", limit=2.0)
    assert list(found) == ["a", name, "b"]
    assert [f.outcome for f in found["a"] + found["b"]] == ["holds", "holds"]
    one, crashed = found[name]
    assert one.ok and not crashed.ok and crashed.group == name
    said = {"aborts": ("status -6", "Assertion `label` failed."), "hangs": ("not done after 2 seconds",)}[name]
    assert all(part in crashed.note for part in said)


def test_after_the_device_is_lost_a_new_process_goes_on():
    found = outcomes("a", "loses the device", "b")
    assert {name: [f.outcome for f in findings] for name, findings in found.items()} == {
        "a": ["holds"], "loses the device": ["holds"], "b": ["holds"],
    }  # fmt: skip


def test_when_time_is_over_the_rest_is_skipped():
    begin = time.monotonic()
    found = outcomes("a", "hangs", "b", "c", seconds=2.0)
    assert time.monotonic() - begin < 20
    assert [f.outcome for f in found["hangs"]] == ["holds", "FAILED"]
    assert [(f.outcome, f.note) for f in found["b"] + found["c"]] == [("skipped", "no time was left")] * 2


def test_a_process_that_never_begins_is_not_started_for_ever():
    found = outcomes("never begins", "b")
    assert [f.outcome for f in found["never begins"] + found["b"]] == ["FAILED", "FAILED"]


def test_the_real_worker():
    options = ("--device", "cpu", "--sizes", "9", "3", "5", "4")
    labels, graphs = supervise(("labels", "CUDA graphs"), options, 60.0)
    assert [f.outcome for f in labels.findings] == ["holds"] * 4 and 0 < labels.seconds < 60
    assert [f.outcome for f in graphs.findings] == ["skipped"]
