"""How numbers are written in tables and sentences; nothing for what is not defined."""

import math

DIGITS = 3


def number(value: float | None) -> str:
    """Return three digits."""
    return "" if value is None or math.isnan(value) else f"{value:.{DIGITS}f}"


def signed(value: float | None) -> str:
    """Return three digits with their sign, a fourth where three would be zeros, and no sign before nothing else."""
    if value is None or math.isnan(value):
        return ""
    for digits in (DIGITS, DIGITS + 1):
        if abs(value) >= 0.5 * 10**-digits:
            return f"{value:+.{digits}f}"
    return f"{0:.{DIGITS}f}"


def interval(low: float, high: float) -> str:
    """Return ``-0.020 to +0.031``."""
    return "" if math.isnan(low) or math.isnan(high) else f"{signed(low)} to {signed(high)}"
