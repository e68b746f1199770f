"""Whom a client trusts, and whom it tells the token: certificates, authorities, bearer tokens."""

import ssl
from datetime import UTC, datetime, timedelta

import foundation_server as fault
import pytest
import trustme
from foundation_asking import Asked
from foundation_server import OipServer, status

from fedhelp_med.common.errors import FedHelpError, InputError
from fedhelp_med.foundation.endpoint import Token


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


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def tls_server(authority):
    servers = []

    def start(*names, ca=authority, **options):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert(*(names or ("127.0.0.1",)), **options).configure_cert(context)
        servers.append(OipServer(tls=context).__enter__())
        return servers[-1]

    yield start
    for server in servers:
        server.__exit__()


@pytest.fixture
def pem(authority, tmp_path):
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return tmp_path / "ca.pem"


def test_a_certificate_of_a_trusted_authority(tls_server, asked, pem):
    server = tls_server()
    client = asked(server.url, ca=pem)
    client.check_complete(server)


def test_certificates_that_are_not_to_be_trusted(tls_server, asked, pem):
    yesterday = datetime.now(UTC) - timedelta(days=1)
    for server, reason in (
        (tls_server(not_after=yesterday), "its certificate has expired; have it renewed"),
        (tls_server(ca=trustme.CA()), "not signed by an authority that is trusted here; name its .* in ca"),
        (tls_server("elsewhere.example"), "its certificate is for another"),
    ):
        client = asked(server.url, ca=pem)
        with pytest.raises(InputError, match=reason) as error:
            client.acquire()
        assert "\n" not in str(error.value)
        assert client.attempts == [("certificate", 1, 0)]
        assert server.requests == []
        client.check_failed()
        for file in client.ledger.parent.glob("knowledge.sqlite*"):
            file.unlink()


def test_this_machines_authorities_do_not_know_a_private_one(tls_server, asked):
    with pytest.raises(InputError, match="not signed by an authority"):
        asked(tls_server().url).acquire()


def test_tls_where_there_is_none(server, asked, pem):
    client = asked(server.url.replace("http", "https"), ca=pem)
    with pytest.raises(InputError, match="does not speak TLS"):
        client.acquire()
    assert client.attempts == [("tls", 1, 0)]


SECRET = "s3cret-of-the-service"


@pytest.mark.parametrize("place", ["env", "file"])
def test_the_token_opens_the_model(server, asked, monkeypatch, tmp_path, place):
    server.token = SECRET
    monkeypatch.setenv("MODEL_TOKEN", SECRET)
    (tmp_path / "token").write_text(f"{SECRET}\n")
    token = Token(env="MODEL_TOKEN") if place == "env" else Token(file=tmp_path / "token")
    client = asked(server.url, token=token)
    client.check_complete(server)
    assert SECRET.encode() not in client.ledger.read_bytes()
    assert SECRET not in repr((vars(client.model), vars(client.model.service), client.attempts))


def test_a_wrong_token_stops_at_once_and_is_shown_nowhere(server, asked, monkeypatch, caplog):
    caplog.set_level(0)
    monkeypatch.setenv("MODEL_TOKEN", SECRET)
    server.token = "another"
    client = asked(server.url, token=Token(env="MODEL_TOKEN"))
    for acts, reason in (
        ([], r"it refuses the token \(401\)"),
        ([status(403, f"{SECRET} opens nothing")], r"403 \(\*\*\* opens nothing\)"),
        ([status(400, "".join(f"\\u{ord(letter):04x}" for letter in SECRET))], "400"),
        ([fault.reset] * 3, "the connection broke"),
    ):
        server.acts = acts
        with pytest.raises(FedHelpError, match=reason) as error:
            client.acquire()
        seen = [str(error.getrepr(style="long", chain=True)), caplog.text, repr(client.attempts)]
        assert not [text for text in seen if SECRET in text]
        assert SECRET.encode() not in b"".join(path.read_bytes() for path in client.ledger.parent.glob("know*"))
    client.check_failed()


def test_a_token_that_is_not_there(server, asked, tmp_path, monkeypatch):
    monkeypatch.delenv("MODEL_TOKEN", raising=False)
    with pytest.raises(InputError, match="the environment variable MODEL_TOKEN is not set"):
        asked(server.url, token=Token(env="MODEL_TOKEN")).acquire()
    with pytest.raises(InputError, match=r"the token file .*/gone cannot be read"):
        asked(server.url, token=Token(file=tmp_path / "gone")).acquire()
    monkeypatch.setenv("MODEL_TOKEN", "two words")
    with pytest.raises(InputError, match="holds no token") as error:
        asked(server.url, token=Token(env="MODEL_TOKEN")).acquire()
    assert "two words" not in str(error.value)
    assert server.requests == []
