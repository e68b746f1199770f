import pytest

from fedhelp_med.common.errors import first_line


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
