"""Addresses, proxies, authorities and tokens."""

import pytest

from fedhelp_med.common.errors import InputError
from fedhelp_med.foundation.endpoint import Endpoint, Token


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("model.example:8000", "give http://HOST:PORT"),
        ("grpc://model.example", "give http://HOST:PORT"),
        ("https://", "give http://HOST:PORT"),
        ("https://model.example:port", "cannot be read"),
        ("https://me:pa55@model.example", "carries a name, a password or a query"),
        ("https://model.example/?key=pa55", "carries a name, a password or a query"),
    ],
)
def test_a_wrong_address_is_named(url, message):
    with pytest.raises(InputError, match=message) as error:
        Endpoint(url)
    assert "pa55" not in str(error.value)


def test_a_token_travels_encrypted_only():
    with pytest.raises(InputError, match="would travel in clear text; use https"):
        Endpoint("http://model.example", Token(env="MODEL_TOKEN"))
    for url in ("https://model.example", "http://127.0.0.1:8000", "http://[::1]:8000", "http://localhost"):
        assert Endpoint(url + "/", Token(env="MODEL_TOKEN")).url == url


def test_one_place_for_a_token(tmp_path):
    with pytest.raises(InputError, match="name one of them"):
        Token("MODEL_TOKEN", tmp_path)
    assert Token().read() is None


def test_a_token_is_read_anew_each_time(monkeypatch):
    token = Token(env="MODEL_TOKEN")
    for value in ("first", "second"):
        monkeypatch.setenv("MODEL_TOKEN", value)
        assert token.read() == value


@pytest.mark.parametrize("value", ["", " ", "a b", "a\r\nX-Evil: 1", "tökén"])
def test_what_is_no_token_is_not_shown(monkeypatch, tmp_path, value):
    (tmp_path / "token").write_text(value, encoding="utf-8")
    with pytest.raises(InputError, match=r"token holds no token: it has to be one word of ASCII characters$"):
        Token(file=tmp_path / "token").read()


def test_authorities_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match=r"gone\.pem', which cannot be used \(No such file"):
        Endpoint("https://model.example", ca=tmp_path / "gone.pem").tls()
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(InputError, match=r"empty\.pem', which cannot be used \(it holds no certificate\)"):
        Endpoint("https://model.example", ca=tmp_path / "empty.pem").tls()


def test_the_time_limit_is_positive():
    for timeout in (0, float("nan")):
        with pytest.raises(InputError, match="timeout is"):
            Endpoint("https://model.example", timeout=timeout)


def test_proxies_of_the_environment(monkeypatch):
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "inside.example")
    assert Endpoint("https://model.example").proxy() == "http://proxy.example:3128"
    assert Endpoint("https://inside.example").proxy() is None
    assert Endpoint("https://127.0.0.1:8000").proxy() is None
