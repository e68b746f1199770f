"""A single HTTP exchange, and in one word how it failed. The connections are kept open for the next."""

import asyncio
import io
import ssl
import threading
import weakref
from collections.abc import Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fedhelp_med.common.errors import InputError
from fedhelp_med.foundation.endpoint import Endpoint

if TYPE_CHECKING:
    import aiohttp

LONGEST_ANSWER = 1 << 30  # bytes; a service that never stops sending must not fill the memory
# What OpenSSL's verification codes ask of a person; all others mean an authority that is not trusted.
EXPIRED, NOT_YET_VALID, OTHER_HOST, OTHER_ADDRESS = 10, 9, 62, 64


@dataclass(frozen=True)
class Request:
    """What is sent to a service.

    Attributes:
        method: `GET` or `POST`.
        path: below the service's url, with a leading slash.
        body: its content.
        headers: beside those that every request has.
        images: how many images the body holds.
    """

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    images: int = 0


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        status: the HTTP status.
        headers: whose keys may be written in any case.
        body: the content, decompressed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class FailureError(Exception):
    """An attempt that brought no answer.

    Args:
        status: one word or the HTTP status, for the record.
        reason: what happened, as a part of a sentence.
        remedy: what a person can do about it.
        again: whether the same request may succeed later.
        wait: the seconds after which the service wants to be asked again.
        received: bytes of the answer that arrived.
    """

    def __init__(
        self, status: str, reason: str, remedy: str, *, again: bool, wait: float | None = None, received: int = 0
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.remedy = remedy
        self.again = again
        self.wait = wait
        self.received = received


class Transport:
    """Connections to one service, usable from any thread.

    Requests run on an event loop in a thread of its own: the only way to bound an attempt as a whole, however
    slowly a service sends what it sends.

    Args:
        endpoint: where the service is.

    Raises:
        InputError: if the extra ``oip`` is missing or ``ca`` cannot be read.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        try:
            import aiohttp
        except ImportError:
            raise InputError(
                "a foundation model behind HTTP needs the extra 'oip': pip install 'fedhelp-med[oip]'"
            ) from None
        self._aiohttp = aiohttp
        self._endpoint = endpoint
        self._tls = endpoint.tls() if endpoint.url.startswith("https") else True
        self._loop = asyncio.new_event_loop()
        self._session: list[aiohttp.ClientSession] = []
        thread = threading.Thread(target=_serve, args=(self._loop,), name="fedhelp-http", daemon=True)
        thread.start()
        self._finalizer = weakref.finalize(self, _shut_down, self._loop, thread, self._session)

    def close(self) -> None:
        """Close the connections; a request that is under way fails."""
        self._finalizer()

    def exchange(self, request: Request, headers: Mapping[str, str]) -> Reply:
        """Send a request and return the whole reply, whatever its status.

        Args:
            request: what is sent.
            headers: the request's headers and those of this attempt.

        Raises:
            FailureError: if no whole reply came back in time.
        """
        if not self._finalizer.alive:
            raise _closed()
        future = asyncio.run_coroutine_threadsafe(self._exchange(request, headers), self._loop)
        try:
            return future.result()
        except CancelledError:
            raise _closed() from None
        finally:
            future.cancel()  # where this thread was interrupted while it waited

    async def _exchange(self, request: Request, headers: Mapping[str, str]) -> Reply:
        received = bytearray()
        try:
            async with self._open().request(
                request.method,
                self._endpoint.url + request.path,
                data=io.BytesIO(request.body) if request.body else None,
                headers=headers,
                allow_redirects=False,
                proxy=self._endpoint.proxy(),
            ) as response:
                async for chunk in response.content.iter_any():
                    received += chunk
                    if len(received) > LONGEST_ANSWER:
                        raise FailureError(
                            "bad answer", "it does not stop sending", "check url", again=False, received=len(received)
                        )
                return Reply(response.status, response.headers, bytes(received))
        except (TimeoutError, OSError, self._aiohttp.ClientError, ValueError) as error:
            failure = self._explain(error)
            failure.received = len(received)
            raise failure from None  # the original may hold the request's headers

    def _open(self) -> "aiohttp.ClientSession":
        if not self._session:
            aiohttp = self._aiohttp
            self._session.append(
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(ssl=self._tls),
                    timeout=aiohttp.ClientTimeout(total=self._endpoint.timeout),
                    cookie_jar=aiohttp.DummyCookieJar(),
                )
            )
        return self._session[0]

    def _explain(self, error: Exception) -> FailureError:
        aiohttp = self._aiohttp
        match error:
            case TimeoutError():
                reason = f"no whole answer within {self._endpoint.timeout:g} s"
                return FailureError("timeout", reason, "raise timeout, or lower batch_size", again=True)
            case aiohttp.ClientConnectorCertificateError():
                return _explain_certificate(error.certificate_error)
            case aiohttp.ClientSSLError():
                remedy = "check that url has the port of its TLS service"
                return FailureError("tls", "it does not speak TLS as it should", remedy, again=False)
            case aiohttp.ClientProxyConnectionError():
                return FailureError("proxy", "the proxy cannot be reached", "check HTTPS_PROXY", again=True)
            case aiohttp.ClientHttpProxyError():
                return FailureError("proxy", f"the proxy answers {error.status}", "check HTTPS_PROXY", again=False)
            case aiohttp.ClientConnectorDNSError():
                return FailureError("unknown host", "its name is not known", "check url and the network", again=True)
            case aiohttp.ClientConnectorError(os_error=ConnectionRefusedError()):
                return FailureError("refused", "connection refused", "check that it runs, and its port", again=True)
            case aiohttp.ClientConnectorError():
                reason = f"it cannot be reached ({error.os_error.strerror or 'no connection'})"
                return FailureError("unreachable", reason, "check url and the network", again=True)
            case aiohttp.ClientPayloadError():
                return FailureError("truncated", "the answer broke off", "try again later", again=True)
            case aiohttp.ClientResponseError():
                return FailureError("bad answer", "it does not speak HTTP", "check url", again=False)
            case aiohttp.InvalidURL() | ValueError():
                return FailureError("bad url", "the address cannot be used", "check url and model", again=False)
        return FailureError("reset", "the connection broke", "check the service and the network", again=True)


def _closed() -> FailureError:
    return FailureError("closed", "the connection was closed here", "open the model again", again=False)


def _explain_certificate(error: Exception) -> FailureError:
    code = error.verify_code if isinstance(error, ssl.SSLCertVerificationError) else None
    reason, remedy = {
        EXPIRED: ("its certificate has expired", "have it renewed"),
        NOT_YET_VALID: ("its certificate is not valid yet", "check this machine's clock"),
        OTHER_HOST: ("its certificate is for another host", "check url"),
        OTHER_ADDRESS: ("its certificate is for another address", "check url"),
    }.get(
        code or 0,
        ("its certificate is not signed by an authority that is trusted here", "name its authority's PEM file in ca"),
    )
    return FailureError("certificate", reason, remedy, again=False)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _shut_down(
    loop: asyncio.AbstractEventLoop, thread: threading.Thread, session: "list[aiohttp.ClientSession]"
) -> None:
    async def close() -> None:
        pending = asyncio.all_tasks() - {asyncio.current_task()}
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for opened in session:
            await opened.close()
        loop.stop()

    loop.call_soon_threadsafe(lambda: loop.create_task(close()))
    if threading.current_thread() is not thread:  # the last reference may be dropped there
        thread.join()
