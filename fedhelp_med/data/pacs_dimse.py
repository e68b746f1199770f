"""A classic picture archive: C-FIND to find, C-GET or C-MOVE to fetch (DICOM PS3.4 C, study root)."""

import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydicom.dataset import Dataset
from pydicom.uid import (
    HTJ2K,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLETransferSyntaxes,
)

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.data.pacs import (
    SERIES_KEYS,
    STUDY_KEYS,
    Query,
    RemoteInstance,
    RemoteSeries,
    Store,
    agrees,
    answer_keys,
)

TIMEOUT = 60.0  # seconds to wait for an answer
BATCH = 100  # instances asked for by name in one request
UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
COMPRESSED = (
    *JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes, *RLETransferSyntaxes,
    HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K,
)  # fmt: skip
SUCCESS, PENDING, PARTLY = 0x0000, (0xFF00, 0xFF01), 0xB000
REFUSED, FAILED = 0xA900, 0xC001  # what a store is answered: not asked for; could not be kept


@dataclass(frozen=True)
class Peer:
    """A classic archive and how to talk to it.

    Args:
        host: its name.
        port: its port.
        title: its application entity title.
        own_title: ours; many archives must know it.
        method: ``get``: the images come over the connection that asks; ``move``: over a second one, to ``listen``.
        listen: for ``move``: where we listen while pulling; the archive must know it as ``own_title``.
        context: of TLS, None without.
    """

    host: str
    port: int
    title: str
    own_title: str = "FEDHELP"
    method: Literal["get", "move"] = "get"
    listen: tuple[str, int] | None = None
    context: ssl.SSLContext | None = None

    def __str__(self) -> str:
        return f"{self.title} at {self.host}:{self.port}"


def parse_peer(address: str) -> tuple[str, int, str, bool]:
    """Read ``dicom://HOST:PORT/TITLE``, or ``dicoms://`` with TLS: host, port, title, TLS.

    Raises:
        InputError: a part is missing or not usable.
    """
    example = "write dicom://HOST:PORT/TITLE, e.g. dicom://pacs.example:104/ARCHIVE (dicoms:// with TLS)"
    parts = urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        port = None
    title = parts.path.strip("/")
    if parts.hostname is None or port is None or not 1 <= len(title) <= 16 or not title.isascii():
        raise InputError(f"{address}: is not the address of a classic archive; {example}")
    return parts.hostname, port, title, parts.scheme == "dicoms"


def tls_context(authority: Path | None, certificate: Path | None) -> ssl.SSLContext:
    """Return a TLS context that verifies the archive, and shows the client's certificate where there is one.

    Raises:
        InputError: a file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=None if authority is None else str(authority))
        if certificate is not None:
            context.load_cert_chain(certificate)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"--ca {authority}, --cert {certificate}: not usable ({error}); name PEM files") from None
    return context


class ClassicArchive:
    """An archive that speaks DIMSE.

    Args:
        peer: which one, and how.

    Raises:
        InputError: the extra ``pacs`` is not installed, or C-MOVE has no place to send to.
    """

    def __init__(self, peer: Peer) -> None:
        try:
            import pynetdicom
        except ImportError:
            raise InputError(
                f"{peer}: a classic archive needs pynetdicom, which is not installed; install the extra `pacs`: "
                "pip install 'fedhelp-med[pacs]'"
            ) from None
        if peer.method == "move" and peer.listen is None:
            raise InputError("--method move: needs the place where the archive sends to; add --listen HOST:PORT")
        self.peer = peer
        self._net: Any = pynetdicom
        self._entity = self._new_entity()
        self._receiver = _Receiver()
        self._server = self._listen() if peer.method == "move" else None

    def find(self, query: Query) -> Iterator[RemoteSeries]:
        """Yield the series that match (C-FIND, studies first).

        Raises:
            InputError: the archive refuses our title, or does not offer this service.
            FedHelpError: it does not answer, or the answer was cut off or is a failure.
        """
        for study in self._find("STUDY", answer_keys(STUDY_KEYS, query.study)):
            uid = str(study.get("StudyInstanceUID", ""))
            if not uid or not agrees(query.study, study):
                continue
            identifier = answer_keys(SERIES_KEYS, query.series)
            identifier.StudyInstanceUID = uid
            for series in self._find("SERIES", identifier):
                if series.get("SeriesInstanceUID") and agrees(query.series, series):
                    yield RemoteSeries(
                        uid,
                        str(series.SeriesInstanceUID),
                        str(series.get("Modality", "")),
                        str(series.get("SeriesDescription", "")),
                    )

    def instances(self, series: RemoteSeries) -> list[RemoteInstance]:
        """Return what a series holds (C-FIND); raises as ``find`` does."""
        identifier = answer_keys(("SOPInstanceUID", "SOPClassUID"), {})
        identifier.StudyInstanceUID, identifier.SeriesInstanceUID = series.study, series.series
        return [
            RemoteInstance(str(found.SOPInstanceUID), str(found.get("SOPClassUID", "")))
            for found in self._find("IMAGE", identifier)
            if found.get("SOPInstanceUID")
        ]

    def fetch(self, series: RemoteSeries, instances: Sequence[RemoteInstance], whole: bool, store: Store) -> None:
        """Fetch a series (C-GET or C-MOVE): as a whole where nothing is there yet, else by the instances' names.

        Raises as ``find`` does, and what ``store`` raises.
        """
        batches = [None] if whole else [instances[i : i + BATCH] for i in range(0, len(instances), BATCH)]
        self._receiver.expect(store, {instance.uid for instance in instances})
        classes = {instance.sop_class for instance in instances}
        for batch in batches:
            identifier = Dataset()
            identifier.StudyInstanceUID, identifier.SeriesInstanceUID = series.study, series.series
            identifier.QueryRetrieveLevel = "SERIES" if batch is None else "IMAGE"
            if batch is not None:
                identifier.SOPInstanceUID = [instance.uid for instance in batch]
            statuses = self._move(identifier) if self._server else self._get(identifier, classes)
            if self._receiver.error is not None:
                raise self._receiver.error
            _check(statuses, f"{self.peer}: {'C-MOVE' if self._server else 'C-GET'}")

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()

    def _find(self, level: str, identifier: Dataset) -> list[Dataset]:
        model = self._net.sop_class.StudyRootQueryRetrieveInformationModelFind
        identifier.QueryRetrieveLevel = level
        with self._association([self._net.build_context(model)]) as association:
            answers = list(association.send_c_find(identifier, model))
        _check([status for status, _ in answers], f"{self.peer}: C-FIND")
        return [found for status, found in answers if status and status.Status in PENDING and found is not None]

    def _get(self, identifier: Dataset, classes: set[str]) -> list[Dataset]:
        model = self._net.sop_class.StudyRootQueryRetrieveInformationModelGet
        kinds = sorted(kind for kind in classes if kind) or _common_classes(self._net)
        contexts = [self._net.build_context(model)]
        for kind in kinds:  # as stored, whichever way: an archive accepts one syntax of each context
            contexts.append(self._net.build_context(kind, list(UNCOMPRESSED)))
            contexts += [self._net.build_context(kind, syntax) for syntax in COMPRESSED]
        roles = [self._net.build_role(kind, scp_role=True) for kind in kinds]
        handlers = [(self._net.evt.EVT_C_STORE, self._receiver)]
        with self._association(contexts, ext_neg=roles, evt_handlers=handlers) as association:
            return [status for status, _ in association.send_c_get(identifier, model)]

    def _move(self, identifier: Dataset) -> list[Dataset]:
        model = self._net.sop_class.StudyRootQueryRetrieveInformationModelMove
        with self._association([self._net.build_context(model)]) as association:
            return [status for status, _ in association.send_c_move(identifier, self.peer.own_title, model)]

    def _new_entity(self) -> Any:
        entity = self._net.AE(self.peer.own_title)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = TIMEOUT
        entity.connection_timeout = TIMEOUT / 3
        return entity

    def _listen(self) -> Any:
        entity = self._new_entity()
        for context in self._net.AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax, [*UNCOMPRESSED, *COMPRESSED])
        handlers = [(self._net.evt.EVT_C_STORE, self._receiver)]
        try:
            return entity.start_server(self.peer.listen, block=False, evt_handlers=handlers)
        except OSError as error:
            host, port = self.peer.listen or ("", 0)
            raise InputError(f"--listen {host}:{port}: not usable ({error.strerror}); choose another port") from None

    @contextmanager
    def _association(self, contexts: Sequence[Any], **arguments: Any) -> Iterator[Any]:
        peer = self.peer
        tls = None if peer.context is None else (peer.context, peer.host)
        association = self._entity.associate(
            peer.host, peer.port, contexts=list(contexts), ae_title=peer.title, tls_args=tls, **arguments
        )
        if not association.is_established:
            if association.is_rejected:
                reason = f"refuses {peer.own_title!r} (or the title {peer.title!r}); correct --title or the address"
                raise InputError(f"{peer}: {reason}")
            if association.acceptor.primitive is not None:
                raise InputError(f"{peer}: does not offer this service; try --method {_other(peer.method)}")
            secure = "; is it the right port for TLS, and trusted by --ca?" if tls else ""
            raise FedHelpError(f"{peer}: does not answer; check host, port and network{secure}")
        try:
            yield association
        finally:
            if association.is_established:
                association.release()


class _Receiver:
    """Takes the instances that an archive sends; anything that was not asked for is refused."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self._wanted: set[str] = set()
        self._store: Store | None = None

    def expect(self, store: Store, wanted: set[str]) -> None:
        self.error, self._store, self._wanted = None, store, wanted

    def __call__(self, event: Any) -> int:
        if self._store is None or str(event.request.AffectedSOPInstanceUID) not in self._wanted:
            return REFUSED
        try:
            dataset = event.dataset
            dataset.file_meta = event.file_meta
            self._store(dataset)
        except Exception as error:  # this is the library's thread: kept for the thread that asked
            self.error = error
            return FAILED
        return SUCCESS


def _check(statuses: Sequence[Dataset], what: str) -> None:
    """Refuse a request that did not end well; instances that are missing are counted by the caller."""
    last = statuses[-1] if statuses else Dataset()
    if "Status" not in last:
        raise FedHelpError(f"{what} was cut off; repeat the command to go on")
    if last.Status not in (SUCCESS, PARTLY):
        comment = f": {last.ErrorComment}" if last.get("ErrorComment") else ""
        raise FedHelpError(f"{what} failed with status 0x{last.Status:04X}{comment}")


def _common_classes(net: Any) -> list[str]:
    names = (
        "CTImageStorage", "MRImageStorage", "EnhancedMRImageStorage", "UltrasoundImageStorage",
        "DigitalXRayImageStorageForPresentation",
    )  # fmt: skip
    return [str(getattr(net.sop_class, name)) for name in names]


def _other(method: str) -> str:
    return "move" if method == "get" else "get"
