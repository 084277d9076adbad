"""Waiting: shown to whoever sits at a terminal, after a second, on stderr; never longer than stated."""

import io
import sys
import time

import pytest

from vramcalc.errors import UnavailableError
from vramcalc.sources import _waiting
from vramcalc.sources._waiting import Patience, Waiting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def waited(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, shown_after_s: float) -> str:
    monkeypatch.setattr(_waiting, "_SHOWN_AFTER_S", shown_after_s)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    waiting = Waiting("hf:org/model", Patience())
    waiting.n_bytes = 3 << 20

    def inner() -> int:
        ends = time.monotonic() + (5 if stream.isatty() and shown_after_s < 1 else 0.25)
        while time.monotonic() < ends and "reading" not in stream.getvalue():
            time.sleep(0.02)
        return 7

    assert waiting.run(lambda: waiting.run(inner)) == 7
    return stream.getvalue()


def test_a_long_wait_is_shown_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "reading hf:org/model: 3.0 MiB" in waited(monkeypatch, Terminal(), 0.05)


def test_a_short_wait_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "reading" not in waited(monkeypatch, Terminal(), 1.0)


def test_no_pipe_is_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not waited(monkeypatch, io.StringIO(), 0.05)


def test_whatever_happens_in_the_work_is_raised() -> None:
    def work() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        Waiting("x", Patience()).run(work)


def test_time_is_over_for_all_requests_together() -> None:
    waiting = Waiting("x", Patience(whole_s=0.2))
    began = time.monotonic()
    waiting.run(lambda: time.sleep(0.1))
    with pytest.raises(UnavailableError, match=r"x was not read within 0\.2 s"):
        waiting.run(lambda: time.sleep(20))
    assert time.monotonic() - began < 5
    assert waiting.over
