"""How numbers are written."""

import pytest

from fedhelp_med.report.numbers import interval, number, signed

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.1234, "+0.123"),
        (-0.02, "-0.020"),
        (0.0004, "+0.0004"),
        (-0.0003, "-0.0003"),
        (-0.00002, "0.000"),
        (0, "0.000"),
    ],
)
def test_a_sign_never_stands_before_zeros(value, written):
    assert signed(value) == written


def test_what_is_not_defined_is_empty():
    assert (number(NAN), number(None), signed(NAN), signed(None), interval(NAN, 1.0)) == ("",) * 5
    assert number(0.98765) == "0.988" and interval(-0.0002, 0.1) == "-0.0002 to +0.100"
