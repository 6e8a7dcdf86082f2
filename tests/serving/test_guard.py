"""Who may call, and how much: keys, ID tokens signed by a key of ours, body, concurrency, time, origins, logs."""

from __future__ import annotations

import datetime
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt, jwt

from helpers.bundle import make_bundle
from helpers.serving import DEADLINE_S, cloud_run_server, running, wait_for
from himari_rl.errors import ConfigError
from himari_rl.serving.http import guard
from himari_rl.serving.http.app import create_app
from himari_rl.serving.http.routes import ENDPOINTS
from himari_rl.serving.messages import EXAMPLE_STATE
from himari_rl.serving.settings import ServeSettings, check_exposure, from_environment

BODY = {"state": EXAMPLE_STATE}
AUDIENCE, EMAIL, ISSUER = "https://layer3.example", "layer2@project.iam.gserviceaccount.com", "https://issuer.example"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles"), hidden=(4,))


def test_without_one_of_the_keys_every_route_but_the_probes_is_401(folder: Path) -> None:
    with running(create_app(folder, ServeSettings(api_keys=("first-key", "second-key")))) as client:
        for endpoint in [*ENDPOINTS, "GET /openapi.json", "GET /nothing"]:
            method, path = endpoint.split()
            status = client.request(method, path).status_code
            assert (status == 200) if path in ("/health", "/ready") else (status == 401), endpoint
        for headers in (
            {"x-api-key": "first-ke"},
            {"x-api-key": "first-key "[:-2]},
            {"x-api-key": ""},
            {"x-api-key": "first-key,second-key"},
            {"authorization": "Basic first-key"},
            {"authorization": "Bearer"},
        ):
            refused = client.post("/predict", json=BODY, headers=headers)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer"), headers
            assert "multiplier" not in refused.text
        for headers in (
            {"x-api-key": "first-key"},
            {"x-api-key": "second-key"},
            {"authorization": "Bearer second-key"},
            {"authorization": "bearer first-key"},
        ):
            assert client.post("/predict", json=BODY, headers=headers).status_code == 200
        assert "himari_errors_total" in client.get("/metrics", headers={"x-api-key": "first-key"}).text


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the keys themselves but their digests, and all of them even after the first fits."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr(guard.hmac, "compare_digest", compare)
    check = guard.Guard(ServeSettings(api_keys=("a", "b", "c")))
    import asyncio

    asyncio.run(check([(b"x-api-key", b"a")]))
    assert len(compared) == 3
    assert {len(part) for pair in compared for part in pair} == {32}


class Issuer:
    """An issuer of ID tokens: an RSA key, its certificate, and a server that hands that out."""

    def __init__(self) -> None:
        self.fetched, self.status = 0, 200
        self.certificates: dict[str, str] = {}
        self.keys: dict[str, rsa.RSAPrivateKey] = {}
        self.rotate("one")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.fetched += 1
                body = json.dumps(outer.certificates).encode()
                self.send_response(outer.status)
                self.send_header("cache-control", "public, max-age=3600")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/certs"

    def rotate(self, name: str) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
        certificate = builder.sign(key, hashes.SHA256())
        self.certificates = {name: certificate.public_bytes(serialization.Encoding.PEM).decode()}
        self.keys[name] = key

    def token(self, key: str = "one", **changes: Any) -> str:
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 600, "email": EMAIL, "email_verified": True}
        signer = crypt.RSASigner.from_string(
            self.keys[key].private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
            ),
            key,
        )
        claims = {name: value for name, value in (claims | changes).items() if value is not None}
        return jwt.encode(signer, claims).decode()


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    thread = threading.Thread(target=issuer.server.serve_forever)
    thread.start()
    yield issuer
    issuer.server.shutdown()
    issuer.server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def signed(folder: Path, issuer: Issuer) -> Iterator[httpx.Client]:
    settings = ServeSettings(
        audience=AUDIENCE, emails=(EMAIL,), issuers=(ISSUER,), certificates_url=issuer.url, api_keys=("spare",)
    )
    with running(create_app(folder, settings)) as client:
        yield client


def ask(client: httpx.Client, token: str) -> httpx.Response:
    return client.post("/predict", json=BODY, headers={"authorization": f"Bearer {token}"})


def test_an_id_token_of_a_listed_person_opens_and_its_certificates_are_fetched_once(
    signed: httpx.Client, issuer: Issuer
) -> None:
    for _ in range(3):
        assert ask(signed, issuer.token(iat=int(time.time()) - 1)).status_code == 200
    assert issuer.fetched == 1
    assert signed.post("/predict", json=BODY, headers={"x-api-key": "spare"}).status_code == 200


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"iss": "https://elsewhere.example"}, 401, "another issuer"),
        ({"iss": None}, 401, "another issuer"),
        ({"aud": "https://other.example"}, 401, "audience"),
        ({"exp": int(time.time()) - 60}, 401, "expired"),
        ({"iat": int(time.time()) + 86_400}, 401, "early"),
        ({"email": "somebody@example.com"}, 403, "may not use this server"),
        ({"email": None}, 403, "may not use this server"),
        ({"email_verified": False}, 403, "may not use this server"),
        ({"email_verified": "true"}, 403, "may not use this server"),
    ],
)
def test_a_token_with_one_wrong_claim_is_refused(
    signed: httpx.Client, issuer: Issuer, changes: dict[str, Any], status: int, said: str
) -> None:
    refused = ask(signed, issuer.token(**changes))
    assert refused.status_code == status, refused.text
    assert said in refused.json()["detail"]


def test_a_token_that_was_touched_or_signed_by_another_key_is_refused(signed: httpx.Client, issuer: Issuer) -> None:
    good = issuer.token()
    head, claims, signature = good.split(".")
    other = Issuer()
    other.server.server_close()
    unsigned = jwt.encode(crypt.RSASigner.from_string(_pem(other)), {"iss": ISSUER}).decode().split(".")[0]
    for token in (
        f"{head}.{claims}.{signature[:-6]}AAAAAA",
        f"{head}.{claims[:-2]}AA.{signature}",
        f"{unsigned}.{claims}.",
        other.token(),
        "a.b.c",
        "..",
    ):
        assert ask(signed, token).status_code == 401, token
    assert ask(signed, good).status_code == 200  # the control


def _pem(issuer: Issuer) -> bytes:
    return issuer.keys["one"].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def test_certificates_that_cannot_be_had_are_503_and_the_server_recovers(folder: Path, issuer: Issuer) -> None:
    settings = ServeSettings(audience=AUDIENCE, emails=(EMAIL,), issuers=(ISSUER,), certificates_url=issuer.url)
    issuer.status = 500
    with running(create_app(folder, settings)) as client:
        refused = ask(client, issuer.token())
        assert (refused.status_code, "certificates at" in refused.json()["detail"]) == (503, True)
        issuer.status = 200
        assert ask(client, issuer.token()).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "example.com"])
def test_a_server_that_others_reach_needs_a_key_or_somebody_who_says_otherwise(host: str) -> None:
    with pytest.raises(ConfigError, match="can be reached from other machines and no client must show a key"):
        check_exposure(host, ServeSettings(), allow_anonymous=False)
    assert check_exposure(host, ServeSettings(), allow_anonymous=True) is False  # then nobody may reload
    assert check_exposure(host, ServeSettings(api_keys=("k",)), allow_anonymous=False) is True
    for local in ("127.0.0.1", "localhost", "::1"):
        assert check_exposure(local, ServeSettings(), allow_anonymous=False) is True


def test_a_container_without_keys_stops_with_one_line_and_with_them_serves(folder: Path) -> None:
    with cloud_run_server(folder, HOST="0.0.0.0") as (process, _):
        _, stderr = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 2
        assert stderr.startswith("api_server: 0.0.0.0 can be reached from other machines")
        assert stderr.count("\n") == 1
    with cloud_run_server(folder, HOST="0.0.0.0", HIMARI_API_KEYS="one, two") as (_, client):
        assert client.post("/predict", json=BODY).status_code == 401
        assert client.post("/predict", json=BODY, headers={"x-api-key": "two"}).status_code == 200


@pytest.mark.parametrize(
    "settings",
    [
        {"audience": "a"},
        {"emails": ("e",)},
        {"challenger_share": 0.5},
        {"challenger": "x", "challenger_share": 1.0},
        {"certificates_url": "file:///etc/hostname"},
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ServeSettings(**settings)
    with pytest.raises(ConfigError, match="HIMARI_LOG_EVERY is 'often'"):
        from_environment({"HIMARI_LOG_EVERY": "often"})


def test_reloading_is_closed_where_anybody_could_call_it(folder: Path) -> None:
    with running(create_app(folder, ServeSettings(admin=False))) as client:
        assert client.post("/admin/reload").status_code == 403
    with running(create_app(folder)) as client:
        assert client.post("/admin/reload").json()["swapped"] is False


def test_no_origin_may_call_unless_it_is_named(folder: Path) -> None:
    preflight = {"origin": "https://page.example", "access-control-request-method": "POST"}
    with running(create_app(folder)) as client:
        assert client.options("/predict", headers=preflight).status_code == 405
        answer = client.post("/predict", json=BODY, headers={"origin": "https://page.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]
    with running(create_app(folder, ServeSettings(cors_origins=("https://page.example",)))) as client:
        assert client.options("/predict", headers=preflight).status_code == 200
        answer = client.post("/predict", json=BODY, headers={"origin": "https://page.example"})
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
        assert "access-control-allow-credentials" not in answer.headers
        other = client.post("/predict", json=BODY, headers={"origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


HEAD = b"POST /predict HTTP/1.1\r\nhost: t\r\ncontent-type: application/json\r\n"


def test_a_body_that_does_not_come_is_408_and_the_others_go_on(folder: Path) -> None:
    with running(create_app(folder, ServeSettings(body_timeout_s=0.4))) as client:
        with socket.create_connection(("127.0.0.1", client.base_url.port), timeout=DEADLINE_S) as slow:
            start = time.monotonic()
            slow.sendall(HEAD + b'content-length: 100\r\n\r\n{"state"')
            assert client.post("/predict", json=BODY).status_code == 200
            answer = slow.recv(4096)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert time.monotonic() - start > 0.35  # not before its time; that it comes is what recv waits for
            assert b"connection: close" in answer.lower()
        assert client.post("/predict", json=BODY).status_code == 200


def test_more_requests_at_once_than_the_limit_are_503_at_once_with_retry_after(folder: Path) -> None:
    settings = ServeSettings(max_concurrency=3, body_timeout_s=30)
    app = create_app(folder, settings)
    with running(app) as client:
        held = [socket.create_connection(("127.0.0.1", client.base_url.port), timeout=DEADLINE_S) for _ in range(3)]
        for connection in held:  # three that have begun and do not end
            connection.sendall(HEAD + b"content-length: 100\r\n\r\n")
        wait_for(lambda: app.concurrency.begun == 3)
        refused = client.post("/predict", json=BODY)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert client.get("/health").status_code == 200  # the probe is let through
        for connection in held:
            connection.close()
        wait_for(lambda: app.concurrency.begun == 0)
        assert client.post("/predict", json=BODY).status_code == 200


def test_one_answer_in_so_many_is_logged_as_json(folder: Path) -> None:
    app = create_app(folder, ServeSettings(log_every=3))
    lines: list[str] = []
    app.state.service.journal._write = lines.append
    with running(app) as client:
        for _ in range(7):
            client.post("/predict", json=BODY)
        client.post("/v1/batch", json={"instances": [EXAMPLE_STATE]})
        client.post("/v1/batch", json={"instances": [EXAMPLE_STATE]})
    logged = [json.loads(line) for line in lines]
    assert [line["event"] for line in logged] == ["swap", "answer", "answer", "answer"]
    assert [line.get("path") for line in logged[1:]] == ["/predict", "/predict", "/v1/batch"]
    assert {"time", "severity", "model_version", "latency_ms", "position_multiplier"} <= set(logged[1])
    assert all(line.endswith("\n") and line.count("\n") == 1 for line in lines)
