import itertools

import pytest

from fedhelp_med.common.errors import FedHelpError, InputError, first_line, reason_of


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n  padded  \ntwo"), "padded"),
        (ValueError(), "ValueError"),
        (AssertionError("   "), "AssertionError"),
        (KeyError("key"), "'key'"),
    ],
)
def test_an_error_is_told_in_one_line_that_is_never_empty(error, line):
    assert first_line(error) == line


def wrapped(*errors):
    """The last of the errors, each raised from the one before."""
    for inner, outer in itertools.pairwise(errors):
        outer.__cause__ = inner
    return errors[-1]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FedHelpError("as it stands\nin lines"), "as it stands\nin lines"),
        (wrapped(InputError("x: is wrong"), RuntimeError("applying transform"), RuntimeError("more")), "x: is wrong"),
        (wrapped(ValueError("deep\nmore"), RuntimeError("failed to instantiate")), "ValueError: deep"),
        (RuntimeError("only\none"), "RuntimeError: only"),
        (KeyError("head"), "KeyError: 'head'"),
    ],
)
def test_of_a_wrapped_error_our_own_message_or_the_cause_is_told(error, reason):
    assert reason_of(error) == reason


def test_errors_that_were_raised_from_each_other_end():
    error, other = RuntimeError("a"), RuntimeError("b")
    error.__cause__, other.__cause__ = other, error
    assert reason_of(error) == "RuntimeError: b"
