"""A site that does not answer is noticed, and one that answers again is not."""

import time

from fedhelp_med.federation.nvflare.pulse import Pulse


def wait_until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def test_a_site_that_stops_to_answer_becomes_silent_and_comes_back():
    answering = {"a", "b"}
    with Pulse(lambda: set(answering), ["a", "b"], patience=0.2, interval=0.005) as pulse:
        assert not pulse.silent("a") and not pulse.silent("b")
        answering.remove("b")
        wait_until(lambda: pulse.silent("b"))
        wait_until(lambda: not pulse.silent("a"))
        answering.add("b")
        wait_until(lambda: not pulse.silent("b"))


def test_a_site_that_never_answers_is_silent_too():
    with Pulse(list, ["a"], patience=0.01, interval=0.005) as pulse:
        wait_until(lambda: pulse.silent("a"))


def test_nobody_is_asked_after_the_end():
    asked = []
    with Pulse(lambda: asked.append(1) or ["a"], ["a"], patience=1.0, interval=0.001):
        wait_until(lambda: asked)
    count = len(asked)
    time.sleep(0.05)
    assert len(asked) == count
