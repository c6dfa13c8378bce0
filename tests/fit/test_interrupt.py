import os
import signal
import threading

import pytest

from torch_manual_bp.fit.interrupt import Interrupt


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def _usual_handling():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_the_first_only_asks_and_the_second_interrupts():
    with pytest.raises(KeyboardInterrupt), Interrupt() as interrupt:
        assert not interrupt.asked
        ctrl_c()
        assert interrupt.asked
        ctrl_c()
        pytest.fail("the second Ctrl-C went unnoticed")


def test_afterwards_all_is_as_before():
    with Interrupt():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_parent_that_ignores_it_is_obeyed():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupt() as interrupt:
        ctrl_c()
        assert not interrupt.asked
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_can_enter_it():
    asked = []

    def work():
        with Interrupt() as interrupt:
            asked.append(interrupt.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert asked == [False]
