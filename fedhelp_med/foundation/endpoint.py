"""Where a foundation model's service is, whom to trust there, and the token that opens it."""

import ipaddress
import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from fedhelp_med.common.errors import InputError

TOKEN = re.compile(r"[\x21-\x7e]+")  # what may stand in a header


@dataclass(frozen=True)
class Token:
    """Where a bearer token is. The token itself is read for each request and kept nowhere.

    Attributes:
        env: the environment variable that holds it.
        file: or the file.
    """

    env: str | None = None
    file: Path | None = None

    def __post_init__(self) -> None:
        if self.env and self.file:
            raise InputError(f"token_env is {self.env!r} and token_file is {str(self.file)!r}: name one of them")

    def read(self) -> str | None:
        """Return the token, or None where none is needed.

        Raises:
            InputError: if it is not there, or cannot be a token.
        """
        if self.env:
            where, value = f"the environment variable {self.env}", os.environ.get(self.env)
            if value is None:
                raise InputError(f"{where} is not set: put the service's token there")
        elif self.file:
            where = f"the token file {self.file}"
            try:
                value = self.file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "it is no text"
                raise InputError(f"{where} cannot be read ({reason}): put the service's token there") from None
        else:
            return None
        if not TOKEN.fullmatch(value.strip()):
            raise InputError(f"{where} holds no token: it has to be one word of ASCII characters")
        return value.strip()


@dataclass(frozen=True)
class Endpoint:
    """The address of a service and how it is reached.

    Attributes:
        url: `https://HOST[:PORT][/PATH]`, or `http://` for a service without TLS.
        token: where its bearer token is.
        ca: a PEM file with the certificate authorities to trust, instead of this machine's.
        timeout: seconds that an attempt may take, from the connection to the last byte of the answer.

    Raises:
        InputError: if the address is wrong, or would carry the token in clear text through a network.
    """

    url: str
    token: Token = Token()
    ca: Path | None = None
    timeout: float = 60.0

    def __post_init__(self) -> None:
        parts = self._parts()
        if parts.username or parts.password or parts.query or parts.fragment:
            place = f"{parts.scheme}://{parts.hostname}"
            raise InputError(
                f"the url of {place} carries a name, a password or a query: give the bare address, and name the "
                "place of a token with token_env or token_file"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"url is {self.url!r}: give http://HOST:PORT or https://HOST")
        if parts.scheme == "http" and self.token != Token() and not self.is_local:
            raise InputError(f"url is {self.url!r}: a token would travel in clear text; use https")
        if not self.timeout > 0:
            raise InputError(f"timeout is {self.timeout}: give seconds, more than 0")
        object.__setattr__(self, "url", self.url.rstrip("/"))

    def _parts(self) -> SplitResult:
        try:
            parts = urlsplit(self.url)
            _ = parts.port
        except ValueError as error:
            raise InputError(f"the url cannot be read ({error}): give http://HOST:PORT or https://HOST") from None
        return parts

    @property
    def host(self) -> str:
        """The host's name or address."""
        return self._parts().hostname or ""

    @property
    def is_local(self) -> bool:
        """Whether the service is on this machine, so that nothing leaves it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def proxy(self) -> str | None:
        """Return the proxy that the environment names for this address (``HTTPS_PROXY``, ``NO_PROXY``)."""
        if self.is_local or proxy_bypass(self.host):
            return None
        return getproxies().get(self._parts().scheme)

    def tls(self) -> ssl.SSLContext:
        """Return the settings of TLS: certificates and host names are always checked.

        Raises:
            InputError: if ``ca`` cannot be read.
        """
        try:
            return ssl.create_default_context(cafile=self.ca)
        except OSError as error:  # ssl.SSLError is one
            reason = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
            raise InputError(f"ca is {str(self.ca)!r}, which cannot be used ({reason}): give a PEM file") from None
