import json

import pytest

from torch_manual_bp.verify import CHECKS, __main__, checks
from torch_manual_bp.verify.finding import holds


@pytest.fixture
def checked(monkeypatch):
    """The settings with which a check by the name of "one" was called."""
    settings = []

    def one(setting):
        settings.append(setting)
        yield holds("a", True)

    monkeypatch.setitem(CHECKS, "one", one)
    monkeypatch.setitem(CHECKS, "two", one)
    assert checks.CHECKS is CHECKS
    return settings


def test_events_are_lines_of_json(checked, capsys):
    assert __main__.main(["--device", "cpu", "--sizes", "1", "2", "3", "4", "one", "two"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [event.get("begin") or event.get("end") or event["check"] for event in events]
    assert kinds == ["one", "a", "one", "two", "a", "two"]
    assert checked[0].sizes == (1, 2, 3, 4) and checked[0].large_elements > 2**31


def test_after_a_lost_device_it_ends(checked, capsys, monkeypatch):
    def lost(*arguments, **options):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(__main__.torch, "ones", lost)
    assert __main__.main(["--device", "cpu", "one", "two"]) == __main__.LOST
    printed = capsys.readouterr()
    assert '"end": "one"' in printed.out and "two" not in printed.out
    assert "device-side assert triggered" in printed.err


def test_an_unknown_check_is_refused(capsys):
    with pytest.raises(SystemExit):
        __main__.main(["hiden ops"])
    assert "got hiden ops" in capsys.readouterr().err
