"""Ctrl-C at any moment leaves a model, and a history that fits it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import interrupts
import pytest
from libraries import LIBRARIES

import portnn
from portnn import loop, training
from portnn.interrupts import uninterrupted

BACKENDS = [name for name in ("numpy", "torch", "jax") if not LIBRARIES[name].why_not]
PACKAGE = str(Path(portnn.__file__).parent)


@pytest.mark.parametrize("backend", BACKENDS)
def test_at_random_moments(backend):
    """Signals of the system, drawn uniformly over the time of a fit."""
    trials = 24
    done = subprocess.run(
        [sys.executable, str(Path(interrupts.__file__)), backend, str(trials), "1"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert sum(found.values()) == trials
    assert found.get("interrupted", 0) >= trials // 4, found


class Pressed:
    """Presses Ctrl-C at the line of portnn with a given number, counted from the first that a fit runs."""

    def __init__(self, at):
        self.at, self.lines, self.where = at, 0, None

    def __call__(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(PACKAGE) or frame.f_code.co_name == "__del__":
            return None  # what is raised in a __del__ Python drops: then the key must be pressed again
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                self.where = f"{frame.f_code.co_filename.removeprefix(PACKAGE)}:{frame.f_lineno}"
                signal.raise_signal(signal.SIGINT)
        return self

    def train(self):
        model, history = interrupts.network("numpy"), None
        before = sys.gettrace()
        sys.settrace(self)
        try:
            history = interrupts.train(model)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        return model, history


@pytest.fixture
def ctrl_c():
    """Python's own handler, whatever the runner has set."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def whole():
    return interrupts.undisturbed("numpy")


def test_at_every_part_of_the_code(whole, ctrl_c):
    """Line by line: 60 lines spread evenly over all that a fit of five epochs runs."""
    counting = Pressed(0)
    interrupts.check(*counting.train(), *whole)
    assert counting.lines > 2000
    found = []
    for k in range(60):
        pressed = Pressed(1 + k * counting.lines // 60)
        model, history = pressed.train()
        try:
            found.append(interrupts.check(model, history, *whole))
        except AssertionError as error:
            raise AssertionError(f"Ctrl-C at {pressed.where}: {error}") from error
    assert found.count("interrupted") > 35


def test_at_every_line_of_the_loop(whole, ctrl_c):
    """Each line of training.py and of loop.py."""
    of_loop = []

    class Listing(Pressed):
        def __call__(self, frame, event, argument):
            if event == "line" and frame.f_code.co_filename in (training.__file__, loop.__file__):
                of_loop.append((self.lines + 1, (frame.f_code.co_filename, frame.f_lineno)))
            return super().__call__(frame, event, argument)

    Listing(0).train()
    ends = [i for i, (_, line) in enumerate(of_loop) if line == of_loop[-1][1]]
    assert ends
    places, seen = [], set()
    for at, line in reversed(of_loop):
        if line not in seen:
            seen.add(line)
            places.append(at)
    assert len(places) > 80
    for at in places:
        pressed = Pressed(at)
        model, history = pressed.train()
        try:
            interrupts.check(model, history, *whole)
        except AssertionError as error:
            raise AssertionError(f"Ctrl-C at {pressed.where}: {error}") from error


# -- holding it back --------------------------------------------------------------------------------------------------


def test_held_back_until_the_end_of_the_block(ctrl_c):
    done = []

    def block():
        with uninterrupted():
            for _ in range(3):
                signal.raise_signal(signal.SIGINT)
                done.append(1)
        done.append("not reached")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == [1, 1, 1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_whoever_has_a_handler_gets_it_once_and_keeps_it(ctrl_c):
    calls = []

    def mine(number, frame):
        calls.append(number)

    signal.signal(signal.SIGINT, mine)
    with uninterrupted():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert calls == []
    assert calls == [signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is mine
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with uninterrupted():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_an_error_in_the_block_comes_out_and_the_handler_comes_back(ctrl_c):
    with pytest.raises(ZeroDivisionError), uninterrupted():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_blocks_within_blocks(ctrl_c):
    done = []

    def block():
        with uninterrupted():
            with uninterrupted():
                signal.raise_signal(signal.SIGINT)
                done.append("inner")
            done.append("outer")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["inner", "outer"]


def test_other_threads_leave_the_handler_alone(ctrl_c):
    seen = []

    def job():
        with uninterrupted():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
