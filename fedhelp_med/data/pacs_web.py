"""A picture archive that speaks DICOMweb: QIDO-RS to find, WADO-RS to fetch (DICOM PS3.18).

The extra ``pacs`` brings what is imported here.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset
from requests.adapters import HTTPAdapter

from fedhelp_med.common.errors import FedHelpError, InputError, first_line
from fedhelp_med.data.pacs import Query, RemoteInstance, RemoteSeries, Store, agrees

TIMEOUT = (20.0, 120.0)  # seconds to connect, and between two packets
PAGE = 500
PLAIN_VALUE = re.compile(r"[A-Za-z0-9._*?,-]+")
"""What can stand in a query as it is: Orthanc up to 1.10, for one, does not decode escapes there."""
MEDIA_TYPES = (("application/dicom", "*"),)  # as stored: nothing is transcoded on the way


@dataclass(frozen=True)
class Credentials:
    """How to prove who asks; never shown.

    Args:
        user: of basic authentication.
        password: of basic authentication.
        token: of bearer authentication.
        authority: file of the certificate authorities to trust, by default the usual ones.
        certificate: the client's certificate with its key, PEM.
    """

    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    authority: Path | None = None
    certificate: Path | None = None

    @property
    def secret(self) -> bool:
        """Whether something would be sent that nobody else may read."""
        return self.password is not None or self.token is not None


class WebArchive:
    """An archive at a DICOMweb address.

    Args:
        url: e.g. ``https://pacs.example/dicom-web``.
        credentials: of the user.
        plain: allow credentials over plain HTTP beyond this machine.

    Raises:
        InputError: the credentials would be readable on their way.
    """

    def __init__(self, url: str, credentials: Credentials | None = None, *, plain: bool = False) -> None:
        credentials = credentials or Credentials()
        parts = urlsplit(url)
        if parts.username or parts.password:
            raise InputError(
                f"the address of {parts.hostname} holds credentials; give them by --user and a file instead"
            )
        if parts.scheme == "http" and credentials.secret and not plain and not _is_local(parts.hostname or ""):
            raise InputError(
                f"{url}: the credentials could be read on their way; use https, or accept it: --plain-http"
            )
        self.url = url
        self._session = _session(credentials)
        self._client: Any = DICOMwebClient(url.rstrip("/"), session=self._session, timeout=TIMEOUT, permissive_uid=True)
        self._client.set_http_retry_params(retry=False)  # it would also wait long for what no wait can help

    def find(self, query: Query) -> Iterator[RemoteSeries]:
        """Yield the series that match (QIDO-RS, studies first).

        Raises:
            InputError: the credentials are refused, or the certificate is not trusted.
            FedHelpError: the archive does not answer, or its answer is not usable.
        """
        for study in self._search(self._client.search_for_studies, "StudyInstanceUID", query.study):
            uid = str(study.StudyInstanceUID)
            for series in self._search(self._client.search_for_series, "SeriesInstanceUID", query.series, uid):
                yield RemoteSeries(
                    uid,
                    str(series.SeriesInstanceUID),
                    str(series.get("Modality", "")),
                    str(series.get("SeriesDescription", "")),
                )

    def instances(self, series: RemoteSeries) -> list[RemoteInstance]:
        """Return what a series holds (QIDO-RS); raises as ``find`` does."""
        found = self._search(self._client.search_for_instances, "SOPInstanceUID", {}, series.study, series.series)
        return [RemoteInstance(str(item.SOPInstanceUID), str(item.get("SOPClassUID", ""))) for item in found]

    def fetch(self, series: RemoteSeries, instances: Sequence[RemoteInstance], whole: bool, store: Store) -> None:
        """Fetch instances as they are stored (WADO-RS): in one stream where nothing is there yet, else one by one.

        Raises as ``find`` does, and what ``store`` raises.
        """
        with self._readable():
            if whole:
                for dataset in self._client.iter_series(series.study, series.series, media_types=MEDIA_TYPES):
                    store(dataset)
                return
            for instance in instances:
                store(
                    self._client.retrieve_instance(series.study, series.series, instance.uid, media_types=MEDIA_TYPES)
                )

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def _search(self, search: Any, key: str, wanted: Mapping[str, str], *within: str) -> Iterator[Dataset]:
        """Yield all answers, page by page; a server that ignores the offset ends the search.

        What some servers would not understand is not asked but picked out of the answers, which have to tell it then.
        Only the archive can match the name of a patient.
        """
        seen: set[str] = set()
        told = {name: value for name, value in wanted.items() if name == "PatientName" or PLAIN_VALUE.fullmatch(value)}
        while True:
            with self._readable():
                page = search(*within, search_filters=told, fields=list(wanted), limit=PAGE, offset=len(seen))
                answers = [Dataset.from_json(answer) for answer in page]
            fresh = [answer for answer in answers if str(answer.get(key, "")) not in seen]
            if not fresh:
                return
            seen.update(str(answer.get(key, "")) for answer in fresh)
            for answer in fresh:
                if answer.get(key) and agrees(wanted, answer) and all(name in answer for name in wanted.keys() - told):
                    yield answer

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Turn what the libraries raise into one line; neither credentials nor headers stand in it."""
        try:
            yield
        except requests.exceptions.SSLError as error:
            raise InputError(
                f"{self.url}: its certificate is not trusted ({_root(error)}); name its authority with --ca FILE"
            ) from None
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status in (401, 403):
                raise InputError(f"{self.url}: refuses these credentials (HTTP {status}); give others") from None
            raise FedHelpError(f"{self.url}: answers HTTP {status}; repeat the command to go on") from None
        except requests.RequestException as error:
            raise FedHelpError(f"{self.url}: does not answer ({_root(error)}); repeat the command to go on") from None
        except (FedHelpError, OSError):
            raise  # of what is done with the instances
        except (
            Exception
        ) as error:  # retrying.RetryError, and what an answer that is no DICOMweb makes the library raise
            reason = str(error) or type(error).__name__
            raise FedHelpError(f"{self.url}: its answer is not usable ({reason}); check the address") from None


class _PlainQuery(HTTPAdapter):
    """Sends ``*``, ``?`` and ``,`` in a query as they are, which is the same by RFC 3986."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request."""
        path, mark, query = (request.url or "").partition("?")
        for escape, character in (("%2A", "*"), ("%3F", "?"), ("%2C", ",")):
            query = query.replace(escape, character)
        request.url = path + mark + query
        return super().send(request, *args, **kwargs)


def _session(credentials: Credentials) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # neither .netrc nor a proxy that nobody meant; no redirect carries the token elsewhere
    for scheme in ("http://", "https://"):
        session.mount(scheme, _PlainQuery())
    if credentials.user is not None:
        session.auth = (credentials.user, credentials.password or "")
    elif credentials.token is not None:
        session.headers["Authorization"] = f"Bearer {credentials.token}"
    if credentials.authority is not None:
        session.verify = str(credentials.authority)
    if credentials.certificate is not None:
        session.cert = str(credentials.certificate)
    return session


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _root(error: BaseException) -> str:
    """Return the innermost reason of a chain of errors."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return first_line(error)
