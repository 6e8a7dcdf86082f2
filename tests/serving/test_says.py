"""What a server says of itself: request ids, lines of JSON, where it listens, its documentation, its probes."""

from __future__ import annotations

import json
import logging
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from helpers.bundle import make_bundle
from helpers.serving import DEADLINE_S, cloud_run_server, running
from helpers.wire import Wire, post
from himari_rl.errors import ConfigError
from himari_rl.serving.http.app import Api, create_app
from himari_rl.serving.http.run import listen, url_of
from himari_rl.serving.messages import EXAMPLE_STATE
from himari_rl.serving.settings import ServeSettings, check_exposure

BODY = {"state": EXAMPLE_STATE}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles"), hidden=(4,))


def lines_of(app: Api) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    app.state.service.journal._write = lambda line: lines.append(json.loads(line))
    return lines


def test_a_request_id_that_was_sent_comes_back_by_every_way_and_none_else(folder: Path) -> None:
    with running(create_app(folder)) as client:
        for path, body in (("/predict", BODY), ("/predict", {}), ("/v1/batch", {"instances": [EXAMPLE_STATE]})):
            answer = client.post(path, json=body, headers={"x-request-id": "abc-1.2_3"})
            assert answer.headers["x-request-id"] == "abc-1.2_3", path
            assert "x-request-id" not in client.post(path, json=body).headers
        assert client.get("/health", headers={"X-Request-ID": "h"}).headers["x-request-id"] == "h"
        for bad in ("x" * 129, "a b", "\xe9"):
            echoed = client.get("/health", headers=[(b"x-request-id", bad.encode("latin-1"))]).headers["x-request-id"]
            assert re.fullmatch(r"[0-9a-f]{12}-\d+", echoed), bad  # one that the server made


def test_every_request_is_a_line_of_json_where_somebody_asked_for_it(folder: Path) -> None:
    app = create_app(folder, ServeSettings(access_log=True, api_keys=("first-key",)))
    lines = lines_of(app)
    with running(app) as client:
        key = {"x-api-key": "first-key"}
        assert client.post("/predict?token=secret", json=BODY, headers=key | {"x-request-id": "one"}).status_code == 200
        assert client.post("/predict", json={}, headers=key).status_code == 422
        assert client.post("/predict", json=BODY, headers={"x-api-key": "wrong"}).status_code == 401
        assert client.get("/health").status_code == 200
    logged = [line for line in lines if line["event"] == "access"]
    assert [(line["method"], line["path"], line["status"]) for line in logged] == [
        ("POST", "/predict", 200),
        ("POST", "/predict", 422),
        ("POST", "/predict", 401),
        ("GET", "/health", 200),
    ]
    assert logged[0]["request_id"] == "one"
    assert len({line["request_id"] for line in logged}) == 4
    assert logged[0]["client"] == logged[1]["client"] != logged[2]["client"] == "127.0.0.1"
    assert all(line["ms"] >= 0 for line in logged)
    assert "secret" not in json.dumps(lines)
    assert "first-key" not in json.dumps(lines)


def test_without_being_asked_no_request_is_a_line(folder: Path) -> None:
    app = create_app(folder)
    lines = lines_of(app)
    with running(app) as client:
        client.post("/predict", json=BODY)
    assert not [line for line in lines if line["event"] == "access"]


def test_what_uvicorn_says_is_json_too(folder: Path) -> None:
    app = create_app(folder)
    lines = lines_of(app)
    with running(app) as client:
        with socket.create_connection(("127.0.0.1", client.base_url.port or 0), timeout=DEADLINE_S) as wire:
            wire.sendall(b"nonsense\r\n\r\n")
            assert wire.recv(1000).startswith(b"HTTP/1.1 400")
        logging.getLogger("uvicorn.error").error("of %s", "uvicorn")
    said = [line for line in lines if line["event"] == "log"]
    assert [line["message"] for line in said] == ["Invalid HTTP request received.", "of uvicorn"]
    assert {line["logger"] for line in said} == {"uvicorn.error"}


def test_the_container_says_at_start_what_it_serves_and_where(folder: Path) -> None:
    with cloud_run_server(folder, HIMARI_API_KEYS="planted-secret") as (process, client):
        port = client.base_url.port
        process.terminate()
        _, stderr = process.communicate(timeout=DEADLINE_S)
    lines = [json.loads(line) for line in stderr.splitlines()]
    listening, serving = lines[0], lines[1]
    assert (listening["event"], listening["url"]) == ("listening", f"http://127.0.0.1:{port}")
    assert (listening["source"], listening["keys"]) == (str(folder), "API keys")
    assert (serving["event"], serving["symbols"], serving["synthetic"]) == ("serving", ["BTC-USDT"], True)
    assert serving["model_version"].startswith("base-")
    assert "planted-secret" not in stderr


def test_an_ipv6_address_may_stand_in_brackets_and_does_in_a_url(folder: Path) -> None:
    try:
        listen("::1", 0).close()
    except ConfigError as error:  # without brackets: what they are refused for is no reason to skip
        pytest.skip(f"no IPv6 here: {error}")
    for host in ("::1", "[::1]"):
        with listen(host, 0) as sock:
            assert url_of(host, sock) == f"http://[::1]:{sock.getsockname()[1]}"
        assert check_exposure(host, ServeSettings(), allow_anonymous=False) is True
    with listen("127.0.0.1", 0) as sock:
        assert url_of("127.0.0.1", sock) == f"http://127.0.0.1:{sock.getsockname()[1]}"
    with pytest.raises(ConfigError, match="can be reached"):
        check_exposure("[::]", ServeSettings(), allow_anonymous=False)


def test_the_documentation_asks_nobody_else_for_anything_and_has_every_route(folder: Path) -> None:
    with running(create_app(folder)) as client:
        page = client.get("/docs")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert not re.findall(r"""(?:src|href|url|action)\s*[=(]\s*["']?(?:https?:)?//""", page.text)
        assert "<script" not in page.text
        for path in client.get("/openapi.json").json()["paths"]:
            assert f" {path}</code>" in page.text
        assert "position_multiplier" in page.text
        assert client.get("/redoc").status_code == 404


@pytest.mark.parametrize("keys", [(), ("key",)])
def test_a_probe_may_ask_with_head(folder: Path, tmp_path: Path, keys: tuple[str, ...]) -> None:
    with running(create_app(folder, ServeSettings(api_keys=keys))) as client:
        for path in ("/health", "/ready"):
            head, get = client.head(path), client.get(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-type"] == get.headers["content-type"]
    with running(create_app(tmp_path / "nothing")) as client:
        assert (client.head("/health").status_code, client.head("/ready").status_code) == (200, 503)


@pytest.mark.parametrize("turbo", [True, False])
@pytest.mark.parametrize("offer", ["h2c", "websocket", "h2c, websocket"])
def test_an_upgrade_is_ignored_and_the_body_kept(folder: Path, turbo: bool, offer: str) -> None:
    with running(create_app(folder, ServeSettings(turbo=turbo))) as client:
        wire = Wire(client.base_url.port or 0)
        with wire.socket:
            wire.socket.sendall(
                post(b"", path="/nothing").replace(b"POST", b"GET", 1)
                + post(
                    json.dumps(BODY).encode(),
                    *("Connection: Upgrade, HTTP2-Settings", f"Upgrade: {offer}", "HTTP2-Settings: AAMA"),
                )
                + post(json.dumps(BODY).encode())
            )
            assert wire.answer()[0] == 404
            first, second = wire.answer(), wire.answer()
            assert (first[0], second[0], first[2]) == (200, 200, second[2])


PADDED = [("",), (" planted",), ("planted\t",), ("planted", "planted"), ("plant\xe9d",), ("plant\ned",)]


@pytest.mark.parametrize("keys", PADDED)
def test_a_key_that_is_blank_padded_or_there_twice_is_refused_and_not_repeated(keys: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as raised:
        ServeSettings(api_keys=keys)
    assert "plant" not in str(raised.value)
