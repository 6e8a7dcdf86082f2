"""What is bounded before anybody is asked for a key: heads, idle connections, bodies that do not come, certificates."""

from __future__ import annotations

import base64
import contextlib
import gc
import json
import select
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from helpers.bundle import make_bundle
from helpers.serving import DEADLINE_S, running, wait_for
from himari_rl.serving.http import guard
from himari_rl.serving.http.app import Api, create_app
from himari_rl.serving.http.connections import MOST_HEAD, Connections
from himari_rl.serving.http.upgrade import Http1Protocol
from himari_rl.serving.messages import EXAMPLE_STATE
from himari_rl.serving.settings import ServeSettings

BODY = json.dumps({"state": EXAMPLE_STATE}).encode()
WHOLE = b"POST /predict HTTP/1.1\r\nhost: t\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
UNFINISHED = b"POST /predict HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\n"
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles"), hidden=(4,))


@pytest.fixture(scope="module", params=[True, False], ids=["turbo", "asgi"])
def served(folder: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Api, httpx.Client]]:
    app = create_app(folder, ServeSettings(turbo=request.param, max_bodies_each=4))
    with running(app) as client:
        yield app, client


def connect(client: httpx.Client) -> socket.socket:
    return socket.create_connection(("127.0.0.1", client.base_url.port or 0), timeout=PATIENCE_S)


def read(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    parts = []
    try:
        while part := connection.recv(65_536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def status(answer: bytes) -> int:
    return int(answer.split()[1])


LONG = b"x" * (MOST_HEAD + 1)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\nhost: t\r\nx-long: " + LONG + b"\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\nx-long: " + LONG + b"\r\n\r\n{}",
        b"GET /health HTTP/1.1\r\nhost: t\r\n" + b"x-some: 0123456789\r\n" * 4_000 + b"\r\n",
        b"GET /" + LONG + b" HTTP/1.1\r\nhost: t\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: t\r\nx-endless: " + LONG + LONG,
        b"GET /health HTTP/1.1\r\nhost: t\r\n" + LONG + LONG,
        b"GET /" + LONG + LONG,
        WHOLE + b"GET /health HTTP/1.1\r\nhost: t\r\nx-long: " + LONG + b"\r\n\r\n",
    ],
    ids=["value", "post", "many", "url", "endless value", "endless name", "endless url", "behind another"],
)
@pytest.mark.parametrize("piece", [1 << 20, 10_000])
def test_a_head_beyond_64_kib_is_431_and_reaches_nobody(
    served: tuple[Api, httpx.Client], head: bytes, piece: int
) -> None:
    app, client = served
    before = app.state.service.metrics.errors[431, "head"]
    with connect(client) as connection:
        try:
            for start in range(0, len(head), piece):
                connection.sendall(head[start : start + piece])
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all of it was sent
        answer = read(connection)
    if answer:  # a reset may have swallowed it
        assert status(answer[answer.rindex(b"HTTP/1.1") :]) == 431
    assert app.state.service.metrics.errors[431, "head"] == before + 1
    assert client.get("/health").status_code == 200


def test_a_head_of_60_kib_and_a_body_of_300_kib_are_none_of_it(served: tuple[Api, httpx.Client]) -> None:
    """The controls: what is large and allowed, whole and in pieces, one behind the other."""
    _, client = served
    padding = {f"x-{index}": "y" * 1_000 for index in range(58)}
    assert client.get("/health", headers=padding).status_code == 200
    assert client.post("/predict", content=BODY, headers=padding).status_code == 200
    large = BODY[:-1] + b" " * 300_000 + b"}"
    request = b"POST /predict HTTP/1.1\r\nhost: t\r\ncontent-length: %d\r\n\r\n%b" % (len(large), large)
    last = b"POST /predict HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
    for piece in (1 << 20, 60_000, 9_999):
        with connect(client) as connection:
            sent = request + request + last
            for start in range(0, len(sent), piece):
                connection.sendall(sent[start : start + piece])
            assert read(connection).count(b"HTTP/1.1 200") == 3


@pytest.mark.parametrize("turbo", [True, False])
def test_connections_that_bring_no_head_are_closed_and_who_asks_stays(folder: Path, turbo: bool) -> None:
    app = create_app(folder, ServeSettings(head_timeout_s=0.4, turbo=turbo))
    with running(app) as client:
        silent, half, blank = connect(client), connect(client), connect(client)
        half.sendall(b"POST /predict HTTP/1.1\r\nhost: t\r\n")
        stop = threading.Event()

        def drip(connection: socket.socket, what: bytes) -> None:
            """A little at a time, for ever: no single wait is long."""
            try:
                while not stop.wait(0.05):
                    connection.sendall(what)
            except OSError:
                pass

        slow = connect(client)
        slow.sendall(b"GET /health HTTP/1.1\r\nx-slow: ")
        threads = [threading.Thread(target=drip, args=pair) for pair in ((slow, b"x"), (blank, b"\r\n"))]
        for thread in threads:
            thread.start()
        good = connect(client)
        end = time.monotonic() + 1.5  # longer than any head may take
        while time.monotonic() < end:
            good.sendall(WHOLE)
            assert status(good.recv(65_536)) == 200
            time.sleep(0.02)
        assert read(silent) == b""
        for connection in (half, slow):
            answer = read(connection)
            assert answer == b"" or status(answer) == 408  # a reset may have swallowed it
        read(blank)
        stop.set()
        for thread in threads:
            thread.join()
        assert app.state.service.metrics.errors[408, "head"] == 3  # all but the silent one
        for connection in (silent, half, blank, slow, good):
            connection.close()


def test_bodies_that_are_awaited_are_bounded_per_address_and_who_sends_his_is_served(
    served: tuple[Api, httpx.Client],
) -> None:
    """One more makes the longest wait end; who sends a body, even behind its head, finds room."""
    app, client = served
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(client)) for _ in range(6)]
        for index, connection in enumerate(held):
            connection.sendall(UNFINISHED)
            most = min(4, index + 1)
            wait_for(lambda most=most: app.concurrency.begun == most)
        for connection in held[:2]:
            answer = read(connection)
            assert status(answer) == 429
            assert b"have not sent their body" in answer
        elsewhere = stack.enter_context(
            socket.create_connection(
                ("127.0.0.1", client.base_url.port or 0), timeout=PATIENCE_S, source_address=("127.0.0.2", 0)
            )
        )
        elsewhere.sendall(UNFINISHED)
        wait_for(lambda: app.concurrency.begun == 5)  # another address has places of its own
        for path, body in (("/predict", BODY), ("/v1/batch", b'{"instances": [%b]}' % BODY)):
            assert client.post(path, content=body).status_code == 200
        assert app.concurrency.begun >= 3
    wait_for(lambda: app.concurrency.begun == 0)
    assert app.body_limit._of == {}


def test_one_address_that_takes_every_place_is_refused_and_another_is_not(folder: Path) -> None:
    app = create_app(folder, ServeSettings(max_concurrency=8))
    with running(app) as client, contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(connect(client)).sendall(UNFINISHED)
        wait_for(lambda: app.concurrency.begun == 8)
        assert client.post("/predict", content=BODY).status_code == 503
        elsewhere = socket.create_connection(
            ("127.0.0.1", client.base_url.port or 0), timeout=PATIENCE_S, source_address=("127.0.0.3", 0)
        )
        with elsewhere:
            elsewhere.sendall(WHOLE)
            assert status(elsewhere.recv(65_536)) == 200


@pytest.mark.parametrize("turbo", [True, False])
def test_a_connection_that_is_gone_leaves_no_circle_for_the_garbage_collector(folder: Path, turbo: bool) -> None:
    """Under a flood of connections a circle each makes a collection stop all for 80 ms."""
    app = create_app(folder, ServeSettings(turbo=turbo))
    with running(app) as client, without_collection():
        assert left_behind(app, client) == 0


def test_a_protocol_that_keeps_what_leads_back_to_it_is_left_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above."""
    monkeypatch.setattr(Http1Protocol, "connection_lost", HttpToolsProtocol.connection_lost)
    app = create_app(folder, ServeSettings())
    with running(app) as client, without_collection():
        assert left_behind(app, client) > 0


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def left_behind(app: Api, client: httpx.Client) -> int:
    """How many of four connections are still in memory when they are gone: answered, refused, unfinished, silent."""
    kept: list[weakref.ref[Any]] = []
    for asked in (WHOLE, WHOLE.replace(b"/predict", b"/nowhere"), UNFINISHED, b""):
        before = set(app.connections.open)
        with connect(client) as connection:
            connection.sendall(asked)
            if asked not in (UNFINISHED, b""):
                assert connection.recv(65_536)
            wait_for(lambda before=before: len(set(app.connections.open) - before) == 1)
            kept += [weakref.ref(one) for one in set(app.connections.open) - before]
            time.sleep(0.1)  # the server has read what came
        wait_for(lambda before=before: not set(app.connections.open) - before)
    end = time.monotonic() + 2.0  # its last task may still be at its end
    while time.monotonic() < end and any(one() is not None for one in kept):
        time.sleep(0.02)
    return sum(one() is not None for one in kept)


def b64(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


GOOD_HEAD, GOOD_CLAIMS = {"alg": "RS256", "kid": "k", "typ": "JWT"}, {"iss": "i", "aud": "a", "exp": 4e9, "iat": 1}
HALF_A_PAIR = {"email": chr(0xD800), "email_verified": True}
ENDLESS = base64.urlsafe_b64encode(b'{"exp": 1e999, "iat": 1e999}').decode()
DEEP = base64.urlsafe_b64encode(b"[" * 10_000).decode()
TOKENS = {
    "dots": "..",
    "no base64": "!.!.!",
    "no json": "YQ.YQ.YQ",
    "not utf-8": f"{base64.urlsafe_b64encode(bytes(range(200, 230))).decode()}.YQ.YQ",
    "head is a list": f"{b64([1])}.{b64(GOOD_CLAIMS)}.YQ",
    "head is text": f"{b64('x')}.{b64(GOOD_CLAIMS)}.YQ",
    "head is null": f"{b64(None)}.{b64(GOOD_CLAIMS)}.YQ",
    "head is a number": f"{b64(1)}.{b64(GOOD_CLAIMS)}.YQ",
    "head is empty": f"{b64({})}.{b64(GOOD_CLAIMS)}.YQ",
    "deep head": f"{DEEP}.{b64(GOOD_CLAIMS)}.YQ",
    "deep claims": f"{b64(GOOD_HEAD)}.{DEEP}.YQ",
    "kid is a list": f"{b64(GOOD_HEAD | {'kid': [1]})}.{b64(GOOD_CLAIMS)}.YQ",
    "kid is an object": f"{b64(GOOD_HEAD | {'kid': {}})}.{b64(GOOD_CLAIMS)}.YQ",
    "kid is half a surrogate pair": f"{b64(GOOD_HEAD | {'kid': chr(0xD800)})}.{b64(GOOD_CLAIMS)}.YQ",
    "audience is half a surrogate pair": f"{b64(GOOD_HEAD)}.{b64(GOOD_CLAIMS | {'aud': chr(0xDFFF)})}.YQ",
    "e-mail is half a surrogate pair": f"{b64(GOOD_HEAD)}.{b64(GOOD_CLAIMS | HALF_A_PAIR)}.YQ",
    "kid is null": f"{b64(GOOD_HEAD | {'kid': None})}.{b64(GOOD_CLAIMS)}.YQ",
    "alg is a list": f"{b64(GOOD_HEAD | {'alg': []})}.{b64(GOOD_CLAIMS)}.YQ",
    "alg none": f"{b64(GOOD_HEAD | {'alg': 'none'})}.{b64(GOOD_CLAIMS)}.",
    "alg HS256": f"{b64(GOOD_HEAD | {'alg': 'HS256'})}.{b64(GOOD_CLAIMS)}.YQ",
    "claims are a list": f"{b64(GOOD_HEAD)}.{b64([1])}.YQ",
    "claims are a number": f"{b64(GOOD_HEAD)}.{b64(3)}.YQ",
    "exp is text": f"{b64(GOOD_HEAD)}.{b64(GOOD_CLAIMS | {'exp': 'x'})}.YQ",
    "exp is a list": f"{b64(GOOD_HEAD)}.{b64(GOOD_CLAIMS | {'exp': [1]})}.YQ",
    "exp is infinite": f"{b64(GOOD_HEAD)}.{ENDLESS}.YQ",
    "iat is null": f"{b64(GOOD_HEAD)}.{b64(GOOD_CLAIMS | {'iat': None})}.YQ",
    "very long": f"{'a' * 20_000}.YQ.YQ",
    "latin-1": "\xe9.\xe9.\xe9",
}


@pytest.mark.parametrize("verified", [False, True], ids=["wrong signature", "as if verified"])
def test_a_token_that_cannot_be_parsed_is_401_and_never_500(
    folder: Path, verified: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what a parser makes of it where the signature is not the first thing to fail."""
    settings = ServeSettings(audience="a", emails=("e",), issuers=("i",), certificates_url="http://127.0.0.1:9/none")
    app = create_app(folder, settings)
    from himari_rl.serving.http import guard

    monkeypatch.setattr(guard, "_download", lambda url: ({"k": "no certificate"}, 3600.0))
    if verified:
        monkeypatch.setattr("google.auth.crypt.verify_signature", lambda *_: True)
    with running(app) as client:
        port = client.base_url.port or 0
        for name, token in TOKENS.items():
            head = f"POST /predict HTTP/1.1\r\nhost: t\r\nconnection: close\r\nauthorization: Bearer {token}\r\n"
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
                connection.sendall(head.encode("latin-1") + b"content-length: 0\r\n\r\n")
                assert status(read(connection)) in ((401, 403) if verified else (401,)), name
        assert not [pair for pair in app.state.service.metrics.errors if pair[0] == 500]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("x-api-key", "first-key")], 200),
        ([("x-api-key", "  first-key \t")], 200),
        ([("x-api-key", "first-key"), ("authorization", "Bearer elsewhere")], 200),  # the proxy's own token
        ([("x-api-key", "first-key"), ("x-api-key", "first-key")], 401),
        ([("x-api-key", "first-key"), ("x-api-key", "wrong")], 401),
        ([("x-api-key", "wrong"), ("x-api-key", "first-key")], 401),
        ([("authorization", "Bearer wrong"), ("authorization", "Bearer first-key")], 401),
        ([("authorization", "Bearer first-key"), ("authorization", "Bearer first-key")], 401),
        ([("x-api-key", "first-key,second-key")], 401),
        ([("x-api-key", "first- key")], 401),
        ([("x-api-key", " ")], 401),
    ],
)
def test_a_key_shown_twice_is_none_and_blanks_around_it_are_no_part_of_it(
    folder: Path, headers: list[tuple[str, str]], expected: int
) -> None:
    with running(create_app(folder, ServeSettings(api_keys=("first-key", "second-key")))) as client:
        port = client.base_url.port or 0
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        head = f"POST /predict HTTP/1.1\r\nhost: t\r\nconnection: close\r\n{lines}content-length: {len(BODY)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
            connection.sendall(head.encode() + BODY)
            assert status(read(connection)) == expected


def test_certificates_that_do_not_come_hold_no_places(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An issuer that takes connections and never answers; far more tokens than there are places."""
    monkeypatch.setattr(guard, "_FETCH_S", DEADLINE_S)  # however slowly this machine takes forty connections
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = ServeSettings(
            audience="a",
            emails=("e",),
            issuers=("i",),
            api_keys=("key",),
            max_concurrency=5,
            certificates_url=f"http://127.0.0.1:{silent.getsockname()[1]}/certs",
        )
        app = create_app(folder, settings)
        with running(app) as client:
            token = f"{b64(GOOD_HEAD)}.{b64(GOOD_CLAIMS)}.YQ"
            head = f"POST /predict HTTP/1.1\r\nhost: t\r\nauthorization: Bearer {token}\r\n"
            request = head.encode() + b"content-length: 0\r\n\r\n"
            waiting = []
            for number in range(64):  # one after the other: only a request that has been looked at is known to wait
                waiting.append(connect(client))
                waiting[-1].sendall(request)
                wait_for(lambda most=number + 1: app.concurrency.begun == most)
                if number == 40:
                    for _ in range(20):
                        answer = client.post("/predict", content=BODY, headers={"x-api-key": "key"})
                        assert answer.status_code == 200
            more = [connect(client) for _ in range(3)]
            for connection in more:  # beyond 64 that wait: at once
                connection.sendall(request)
                assert status(connection.recv(65_536)) == 503
            silent.accept()[0].close()  # now the fetch ends, and with it those that wait
            for connection in (*waiting, *more):
                connection.close()


@pytest.mark.parametrize("turbo", [True, False])
def test_a_client_that_does_not_read_its_answers_is_ended(folder: Path, turbo: bool) -> None:
    """Megabytes of answers, which the machine's own buffers do not hold; a close would wait for ever to send them."""
    app = create_app(folder, ServeSettings(head_timeout_s=1.0, turbo=turbo))
    document = b"GET /docs HTTP/1.1\r\nhost: t\r\n\r\n" * 100
    lines: list[str] = []
    app.state.service.journal._write = lines.append
    with running(app) as client, contextlib.ExitStack() as stack:
        deaf = [stack.enter_context(socket.socket()) for _ in range(2)]
        for connection in deaf:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.connect(("127.0.0.1", client.base_url.port or 0))
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(10):
                    connection.sendall(document)
        wait_for(lambda: len(select.select(deaf, [], [], 0)[0]) == 2)  # both are answered: who has not come is not gone
        ports = {connection.getsockname()[1] for connection in deaf}
        wait_for(lambda: not ports & {one.client[1] for one in list(app.connections.open) if one.client})
        assert client.get("/health").status_code == 200
    assert not [line for line in lines if "Traceback" in line]  # uvicorn would write to those that are gone


class Client:
    """A connection as Connections sees it."""

    client = ("127.0.0.1", 1)
    heads = 1

    def __init__(self, unread: int) -> None:
        self.unread, self.ended = unread, False

    def waits(self) -> bool:
        return False

    def give_up(self) -> None:
        self.ended = True


def test_who_reads_a_little_at_a_time_is_not_ended() -> None:
    connections = Connections(10.0)
    connections.open = deaf, slow, quick = Client(5_000), Client(5_000), Client(0)
    for second in range(0, 31, 2):
        connections.look(float(second))
        slow.unread -= 1
    assert (deaf.ended, slow.ended, quick.ended) == (True, False, False)
