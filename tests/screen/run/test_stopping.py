from __future__ import annotations

import os
import signal

import pytest

from export.errors import Interrupted, OodscreenError, Terminated
from screen.run.stopping import StopRequest, stop_on_signals


def test_without_a_signal_the_check_does_nothing() -> None:
    StopRequest().check()


@pytest.mark.parametrize(
    ("number", "error", "code"), [(signal.SIGINT, Interrupted, 130), (signal.SIGTERM, Terminated, 143)]
)
def test_a_signal_waits_until_the_check(number: int, error: type[OodscreenError], code: int) -> None:
    with stop_on_signals() as stop:
        stop.check()
        os.kill(os.getpid(), number)
        with pytest.raises(error) as stopped:
            stop.check()
    assert type(stopped.value) is error
    assert stopped.value.exit_code == code


def test_a_second_signal_does_not_wait() -> None:
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_previous_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_on_signals():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
