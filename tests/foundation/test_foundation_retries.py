"""Pauses between attempts, and what Retry-After means."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhelp_med.common.errors import InputError
from fedhelp_med.foundation.retries import Retries, retry_after

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@settings(deadline=None)
@given(number=st.integers(1, 10_000), asked=st.none() | st.floats(0, 1e6))
def test_pauses_double_within_their_bounds(number, asked):
    retries = Retries(attempts=9, first_pause=0.5, longest_pause=30)
    whole = min(30.0, 0.5 * 2.0 ** min(number - 1, 100))
    pause = retries.pause(number, asked)
    assert max(whole / 2, asked or 0) <= pause <= max(whole, asked or 0)


def test_pauses_differ():
    assert len({Retries().pause(4) for _ in range(20)}) > 10


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ({"Retry-After": "120"}, 120),
        ({"Retry-After": " 0 "}, 0),
        ({"Retry-After": "Fri, 02 Jan 2026 03:05:05 GMT"}, 60),
        ({"Retry-After": "Friday, 02-Jan-26 03:05:05 GMT"}, 60),
        ({"Retry-After": "Fri Jan  2 03:05:05 2026"}, 60),
        ({"Retry-After": "Fri, 02 Jan 2026 03:04:00 GMT"}, 0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "1.5"}, None),
        ({"Retry-After": "Fri, 99 Jan 2026 03:05:05 GMT"}, None),
        ({}, None),
    ],
)
def test_retry_after(header, seconds):
    assert retry_after(header, NOW) == seconds


def test_a_date_counts_from_the_clock_of_the_service():
    headers = {"Date": "Fri, 02 Jan 2026 03:00:00 GMT", "Retry-After": "Fri, 02 Jan 2026 03:00:07 GMT"}
    assert retry_after(headers) == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attempts": 0}, "attempts is 0"),
        ({"first_pause": -1}, "first_pause is -1"),
        ({"first_pause": 5, "longest_pause": 4}, "first_pause is 5 and longest_pause 4"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        Retries(**settings)
