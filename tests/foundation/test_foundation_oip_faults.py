"""Each fault of a service, on real sockets: repeated or not, one clear message, a consistent ledger."""

import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import foundation_server as fault
import numpy as np
import pytest
from foundation_asking import IMAGES, Asked
from foundation_server import OipServer, status

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.foundation.retries import Retries

ONE_LINE = r"[^\n]*"


@pytest.fixture
def server():
    with OipServer() as running:
        yield running


@pytest.fixture
def asked(tmp_path):
    clients = []

    def make(url, **options):
        clients.append(Asked(tmp_path, url, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.model.close()


def closed_port():
    """A port of this machine at which nobody listens while the socket is held."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    return holder


PASSING = {
    "reset": (fault.reset, "reset", "the connection broke"),
    "hang up": (fault.hang_up, "reset", "the connection broke"),
    "silence": (fault.silence, "timeout", "no whole answer within 0.3 s"),
    "slow headers": (fault.slow_headers, "timeout", "no whole answer within 0.3 s"),
    "slow body": (fault.slow_body, "timeout", "no whole answer within 0.3 s"),
    "truncated": (fault.truncated, "truncated", "the answer broke off"),
    "shortened": (fault.shortened, "bad answer", "its answer cannot be read"),
    "429": (status(429), "429", r"it answers 429 \(overloaded\)"),
    "500": (status(500), "500", r"it answers 500 \(overloaded\)"),
    "503": (status(503), "503", r"it answers 503 \(overloaded\)"),
}


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_is_waited_out(server, asked, name):
    act, word, _ = PASSING[name]
    client = asked(server.url, timeout=0.3)
    server.acts = [act, act]
    assert client.acquire().asked == IMAGES
    assert client.statuses == [word, word, "200"]
    assert [number for _, number, images in client.attempts if images] == [1, 2, 3]
    client.check_complete(server)


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_stays_ends_the_acquisition(server, asked, name):
    act, word, reason = PASSING[name]
    client = asked(server.url, timeout=0.3)
    server.acts = [act] * 3
    with pytest.raises(FedHelpError, match=rf"^foundation model tiny at {server.url}: {reason} \(3 attempts") as error:
        client.acquire()
    assert "\n" not in str(error.value)
    assert client.statuses == [word] * 3
    client.check_failed()
    client.check_complete(server)


PERMANENT = {
    "400": (status(400, "unexpected shape"), "400", r"it answers 400 \(unexpected shape\); .*input"),
    "401": (status(401), "401", r"it asks for a token \(401\)"),
    "403": (status(403, "not yours"), "403", r"it answers 403 \(not yours\); ask for access"),
    "404": (status(404, "no such model"), "404", r"it answers 404 .*check url, model and version"),
    "413": (status(413, "too large"), "413", "lower batch_size"),
    "422": (status(422, "no binary"), "422", r"it answers 422 \(no binary\)"),
    "redirect": (status(307, Location="http://elsewhere.example/"), "307", "points to another address"),
    "web page": (fault.page, "web page", "it answers with a web page; check url"),
    "images lost": (fault.scores(lambda n: np.zeros((n - 1, 2))), "bad answer", "for 2 images of 3"),
    "axes": (fault.scores(lambda n: np.zeros((n, 2, 1))), "bad answer", "logits have 2 axes"),
    "NaN": (fault.scores(lambda n: np.full((n, 2), np.nan)), "bad answer", "3 of 3 images with values .*NaN"),
    "classes": (fault.scores(lambda n: np.zeros((n, 5))), "bad answer", "5 channels, but has 2 classes"),
}


@pytest.mark.parametrize("name", PERMANENT)
def test_a_fault_that_would_repeat_itself_stops_at_once(server, asked, name):
    act, word, reason = PERMANENT[name]
    client = asked(server.url)
    server.acts = [act]
    with pytest.raises(FedHelpError, match=f"^foundation model tiny{ONE_LINE}{reason}") as error:
        client.acquire()
    assert "\n" not in str(error.value)
    assert client.statuses == [word]
    assert server.asked == 1
    client.check_failed()
    client.check_complete(server)


def test_a_refused_connection_ends_the_acquisition(asked):
    with closed_port() as holder:
        client = asked(f"http://127.0.0.1:{holder.getsockname()[1]}")
        with pytest.raises(FedHelpError, match=r"connection refused \(3 attempts in .* s\); check that it runs"):
            client.acquire()
    assert client.attempts == [("refused", number, 0) for number in (1, 2, 3)]
    client.check_failed()


def test_a_service_that_starts_late_is_waited_for(asked):
    holder = closed_port()
    client = asked(f"http://127.0.0.1:{holder.getsockname()[1]}")
    servers = []

    class Starting(Retries):
        def pause(self, number, asked=None):
            if not servers:
                servers.append(OipServer(sock=holder).__enter__())
            return super().pause(number, asked)

    client.model.service.retries = Starting(attempts=3, first_pause=0.001)
    try:
        assert client.acquire().asked == IMAGES
        assert [word for word, _, images in client.attempts if not images][:2] == ["refused", "200"]
        client.check_complete(servers[0])
    finally:
        for server in servers:
            server.__exit__()


def test_metadata_are_asked_for_again_too(server, asked):
    client = asked(server.url)
    server.acts, server.acts_on_all = [status(503), fault.truncated], True
    client.acquire()
    assert [word for word, _, images in client.attempts if not images][:3] == ["503", "truncated", "200"]


def test_metadata_that_are_a_page_stop_at_once(server, asked):
    client = asked(server.url)
    server.acts, server.acts_on_all = [fault.page], True
    with pytest.raises(InputError, match="it answers with a web page"):
        client.acquire()
    assert server.asked == 0
    client.check_failed()


def later(seconds):
    now = datetime.now(UTC) + timedelta(days=2)  # a service whose clock is wrong
    return {"Date": format_datetime(now, True), "Retry_After": format_datetime(now + timedelta(seconds=seconds), True)}


@pytest.mark.parametrize("headers", [{"Retry_After": "1"}, later(1)], ids=["seconds", "date"])
def test_retry_after_is_honoured(server, asked, headers):
    client = asked(server.url)
    server.acts = [status(429, **headers)]
    times = []
    server.on_request = lambda: times.append(time.monotonic())
    client.acquire()
    assert client.statuses == ["429", "200"]
    assert times[-1] - times[-2] >= 1.0


@pytest.mark.parametrize("headers", [{"Retry_After": "3600"}, later(3600)], ids=["seconds", "date"])
def test_a_pause_that_is_too_long_is_not_waited_for(server, asked, headers):
    client = asked(server.url)
    server.acts = [status(503, **headers)]
    with pytest.raises(FedHelpError, match=r"answers 503 .* asks to wait 3600 s, more than longest_pause \(10 s\)"):
        client.acquire()
    assert client.statuses == ["503"]
    client.check_failed()
