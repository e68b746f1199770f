"""``fedhelp data pull``."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.data.pacs import Archive, PullReport, Query, RemoteSeries, parse_query, pull
from fedhelp_med.data.pacs_dimse import ClassicArchive, Peer, parse_peer, tls_context
from fedhelp_med.data.pseudonyms import Pseudonyms, read_key

PASSWORD, TOKEN = "FEDHELP_PACS_PASSWORD", "FEDHELP_PACS_TOKEN"
"""Variables of the environment."""


def pull_studies(
    source: str,
    matches: Sequence[str],
    out: Path,
    *,
    user: str | None,
    password_file: Path | None,
    token_file: Path | None,
    authority: Path | None,
    certificate: Path | None,
    plain: bool,
    title: str,
    method: Literal["get", "move"],
    listen: str | None,
    anonymise: bool,
    key_file: Path | None,
    dry_run: bool,
) -> None:
    """Fetch the series that match, and say what came.

    Raises:
        InputError: an option is wrong, options do not go together, or the archive refuses us.
        FedHelpError: the archive does not answer, or a series did not come.
    """
    console = Console()
    query = parse_query(matches)
    if key_file is not None and not anonymise:
        raise InputError(f"--key-file {key_file}: goes with --anonymise")
    archive: Archive
    if source.startswith(("dicom://", "dicoms://")):
        host, port, archive_title, secure = parse_peer(source)
        context = tls_context(authority, certificate) if secure else None
        archive = ClassicArchive(Peer(host, port, archive_title, title, method, _place(listen), context))
    elif source.startswith(("http://", "https://")):
        archive = _web_archive(source, plain, user, password_file, token_file, authority, certificate)
    else:
        raise InputError(f"{source}: is no archive; write https://HOST/dicom-web or dicom://HOST:PORT/TITLE")
    try:
        if dry_run:
            _list(console, archive, query)
            return
        pseudonyms = Pseudonyms(read_key(key_file or default_key_file())) if anonymise else None

        def watch(series: RemoteSeries, missing: int, total: int) -> None:
            name = series.series if pseudonyms is None else pseudonyms.uid(series.series)
            about = "" if pseudonyms is not None else f" {series.description}"  # a description may name the patient
            text = f"{series.modality}{about} {name}: {missing} of {total} to fetch"
            console.print(escape(text), highlight=False, soft_wrap=True)

        report = pull(archive, query, out, pseudonyms, watch)
    finally:
        archive.close()
    _tell(console, report, out, pseudonyms)


def default_key_file() -> Path:
    """Return where the key of the pseudonyms is kept, outside of any folder that is passed on."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "fedhelp-med" / "pseudonyms.key"


def _tell(console: Console, report: PullReport, out: Path, pseudonyms: Pseudonyms | None) -> None:
    console.print(
        f"{report.series} series: {report.fetched} instances fetched, {report.present} were there. Folder: {out}",
        highlight=False,
        soft_wrap=True,
    )
    if pseudonyms is not None:
        console.print(
            "Anonymised by the Basic Profile of DICOM PS3.15. Text in the pixels was not looked for"
            + (f"; look at {len(report.look_at)} series that often show it:" if report.look_at else "."),
            highlight=False,
            soft_wrap=True,
        )
        for folder in report.look_at:
            console.print(f"  {folder}", highlight=False, soft_wrap=True)
    if report.failed:
        named = "\n".join(
            f"  {uid if pseudonyms is None else pseudonyms.uid(uid)}: {reason}" for uid, reason in report.failed.items()
        )
        raise FedHelpError(f"{len(report.failed)} of {report.series} series are not complete:\n{named}")
    if not report.series:
        raise FedHelpError("no series matches; relax --match (`*` matches any text)")


def _list(console: Console, archive: Archive, query: Query) -> None:
    count = 0
    for series in archive.find(query):
        count += 1
        text = f"{series.modality:4} {series.description}  {series.study} {series.series}"
        console.print(escape(text), highlight=False, soft_wrap=True)
    console.print(f"{count} series match; nothing was fetched.", highlight=False)


def _web_archive(
    url: str,
    plain: bool,
    user: str | None,
    password_file: Path | None,
    token_file: Path | None,
    authority: Path | None,
    cert: Path | None,
) -> Archive:
    try:
        from fedhelp_med.data.pacs_web import Credentials, WebArchive
    except ImportError as error:
        raise InputError(
            f"{url}: DICOMweb needs {error.name}, which is not installed; install the extra `pacs`: "
            "pip install 'fedhelp-med[pacs]'"
        ) from None
    for option, path in (("--ca", authority), ("--cert", cert)):
        if path is not None and not path.is_file():
            raise InputError(f"{option} {path}: this file does not exist; name a PEM file")
    token = _secret("--token-file", token_file, TOKEN)
    password = _secret("--password-file", password_file, PASSWORD) if user is not None else None
    if user is None and password_file is not None:
        raise InputError(f"--password-file {password_file}: whose password? add --user NAME")
    if user is not None and password is None:
        raise InputError(f"--user {user}: has no password; set {PASSWORD} or name --password-file FILE")
    if user is not None and token_file is not None:
        raise InputError("--user and --token-file: choose one way to prove who asks")
    credentials = Credentials(user, password, token if user is None else None, authority, cert)
    return WebArchive(url, credentials, plain=plain)


def _secret(option: str, path: Path | None, variable: str) -> str | None:
    """Return a secret from a file or, without one, from the environment; it is never shown."""
    if path is None:
        return os.environ.get(variable) or None
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{option} {path}: cannot be read as text; name a readable file") from None
    if not secret or "\n" in secret:
        raise InputError(f"{option} {path}: has to hold one line, the secret")
    return secret


def _place(listen: str | None) -> tuple[str, int] | None:
    if listen is None:
        return None
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(f"--listen {listen}: is not HOST:PORT; write e.g. 192.0.2.7:11112")
    return host, int(port)
