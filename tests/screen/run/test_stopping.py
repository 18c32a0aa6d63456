from __future__ import annotations

import os
import signal

import pytest

from export.errors import Interrupted, OodscreenError, Terminated
from screen.run.stopping import StopRequest, stop_on_signals


def test_a_run_that_nobody_asked_to_stop_goes_on() -> None:
    StopRequest().check()


@pytest.mark.parametrize(
    ("number", "error", "code"), [(signal.SIGINT, Interrupted, 130), (signal.SIGTERM, Terminated, 143)]
)
def test_a_signal_waits_until_it_is_looked_at(number: int, error: type[OodscreenError], code: int) -> None:
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


def test_the_handlers_are_as_they_were_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with stop_on_signals():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
