"""A service that is asked over HTTP: attempts, pauses, the token, and one clear message when it does not answer."""

import itertools
import json
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import fedhelp_med
from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.foundation.attempts import Attempt, OnAttempt
from fedhelp_med.foundation.endpoint import Endpoint
from fedhelp_med.foundation.retries import PASSING_STATUS, Retries, retry_after
from fedhelp_med.foundation.transport import FailureError, Reply, Request, Transport

T = TypeVar("T")
QUOTED = 200  # characters of what a service says that are repeated in a message
REMEDIES = {
    400: "check the description of the model's input",
    403: "ask for access to this model",
    404: "check url, model and version",
    405: "check url",
    407: "check HTTPS_PROXY",
    413: "lower batch_size",
    422: "check the description of the model's input",
}


class Service:
    """Asks one service, patiently where that helps.

    Args:
        name: how it is called in messages.
        endpoint: where it is.
        retries: how patiently it is asked.

    Attributes:
        on_attempt: called after each HTTP attempt, in the thread that asks.

    Raises:
        InputError: if the extra ``oip`` is missing, or ``ca`` cannot be read.
    """

    def __init__(self, name: str, endpoint: Endpoint, retries: Retries | None = None) -> None:
        self.name = name
        self.endpoint = endpoint
        self.retries = retries or Retries()
        self.on_attempt: OnAttempt | None = None
        self._transport = Transport(endpoint)
        self._closed = threading.Event()

    def close(self) -> None:
        """Close the connections; whoever waits for an answer or for the next attempt gets an error."""
        self._closed.set()
        self._transport.close()

    def ask(self, request: Request, read: Callable[[Reply], T]) -> T:
        """Send a request, again where that may help, and return what ``read`` makes of the answer.

        Args:
            request: what is sent.
            read: takes a reply of status 200. It raises :class:`FailureError` for one that cannot be used, with
                ``again`` where the same request may bring a better one, and any other error for one that is wrong.

        Raises:
            InputError: if the service refuses what a person has to correct: address, certificate, token, request.
            FedHelpError: if it does not answer; the token is never part of the message.
        """
        started = time.monotonic()
        for number in itertools.count(1):
            try:
                return self._attempt(request, read, number)
            except FailureError as failure:
                pause = self.retries.pause(number, failure.wait)
                if not failure.again:
                    raise InputError(f"{self._who}: {failure.reason}; {failure.remedy}") from None
                patient = pause <= self.retries.longest_pause
                if number >= self.retries.attempts or not patient:
                    raise FedHelpError(self._given_up(failure, number, time.monotonic() - started, patient)) from None
            if self._closed.wait(pause):
                raise FedHelpError(f"{self._who}: closed while waiting for the next attempt")
        raise AssertionError("count() does not end")

    @property
    def _who(self) -> str:
        return f"{self.name} at {self.endpoint.url}"

    def _given_up(self, failure: FailureError, number: int, seconds: float, patient: bool) -> str:
        if not patient:
            limit = f"more than longest_pause ({self.retries.longest_pause:g} s)"
            return f"{self._who}: {failure.reason}, and asks to wait {failure.wait:g} s, {limit}; go on after that"
        times = f" ({number} attempts in {seconds:.1f} s)" if number > 1 else ""
        return f"{self._who}: {failure.reason}{times}; {failure.remedy}"

    def _attempt(self, request: Request, read: Callable[[Reply], T], number: int) -> T:
        token = self.endpoint.token.read()
        headers = {"Accept-Encoding": "identity", "User-Agent": f"fedhelp-med/{fedhelp_med.__version__}"}
        headers.update(request.headers)
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        started, status, received = time.perf_counter(), "interrupted", 0
        try:
            reply = self._transport.exchange(request, headers)
            status, received = str(reply.status), len(reply.body)
            self._judge(reply, token)
            return read(reply)
        except FailureError as failure:
            status, received = failure.status, failure.received or received
            raise
        except FedHelpError:
            status = "bad answer"
            raise
        finally:
            if self.on_attempt is not None:
                seconds = time.perf_counter() - started
                self.on_attempt(Attempt(request.images, len(request.body), received, seconds, status, number))

    def _judge(self, reply: Reply, token: str | None) -> None:
        """Pass a reply that can be read; raise for any other."""
        if reply.status == 200:
            if is_page(reply):
                remedy = "check url, and whether a proxy wants a log-in"
                raise FailureError("web page", "it answers with a web page", remedy, again=False)
            return
        status = str(reply.status)
        if 300 <= reply.status < 400:
            remedy = "give the final address in url: images are sent nowhere else"
            raise FailureError(status, f"it points to another address ({status})", remedy, again=False)
        if reply.status == 401:
            reason = "it asks for a token (401)" if token is None else "it refuses the token (401)"
            raise FailureError(status, reason, "put a valid one where token_env or token_file says", again=False)
        again, said = reply.status in PASSING_STATUS, quote(reply, token)
        raise FailureError(
            status,
            f"it answers {status}{f' ({said})' if said else ''}",
            REMEDIES.get(reply.status, "try again later" if again else "check url and the model's description"),
            again=again,
            wait=retry_after(reply.headers) if again else None,
        )


def is_page(reply: Reply) -> bool:
    """Whether a reply is a page for people, as of a proxy or a portal."""
    return "html" in reply.headers.get("Content-Type", "").lower() or reply.body[:64].lstrip().startswith(b"<")


def quote(reply: Reply, token: str | None) -> str:
    """Return the start of what a service says about an error, on one line and without the token."""
    if is_page(reply):
        return ""
    text = _redact(reply.body[: 1 << 16].decode("utf-8", errors="replace"), token)
    try:
        content = json.loads(text)
        text = str(next(content[key] for key in ("error", "message", "detail") if key in content))
    except (ValueError, TypeError, StopIteration):
        pass
    text = _redact(text, token)  # again: JSON may have hidden it behind escapes
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= QUOTED else text[:QUOTED] + "..."


def _redact(text: str, token: str | None) -> str:
    return text if token is None else text.replace(token, "***")
