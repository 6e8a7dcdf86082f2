"""A line of the fault drill: bytes that are nearly HTTP, and requests that are nearly right, on a wire and in process.

On a wire each is a connection of its own to a server process. In process the same protocol (uvicorn's, as run.py makes
it) gets the bytes from a transport that is none, which takes a tenth of the time. No answer may be a 5xx, none may hold
a number that is not finite, no traceback may be written, and the server goes on.
"""

from __future__ import annotations

import asyncio
import copy
import json
import math
import random
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from drill_server import ORDERLY, Found, _ask, said, server_on, small_bundle, states
from helpers import PATIENCE_S

FULL_WIRE, FULL_BYTES, FULL_REQUESTS, FULL_MEMORIES = 100_000, 900_000, 70_000, 100_000
TOGETHER = 200
"""Connections in process at once."""


def raw_http(size: float) -> Found:
    """Bytes on the wire, bytes and requests in process, and texts that are nearly a signed memory."""
    counts = [max(200, round(full * size)) for full in (FULL_WIRE, FULL_BYTES, FULL_REQUESTS, FULL_MEMORIES)]
    wire, raw, requests, memories = counts
    lost = Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = small_bundle(Path(name), "m")
        with server_on(folder, HIMARI_HEAD_TIMEOUT_S="1", HIMARI_BODY_TIMEOUT_S="1") as (process, port):
            lost += asyncio.run(_raw(port, wire))
            lost["no answer afterwards"] += _ask(port, "/health") != {"status": "alive"}
            process.send_signal(signal.SIGTERM)
            _, stderr = process.communicate(timeout=PATIENCE_S)
            lost["tracebacks"] += stderr.count("Traceback")
            lost[f"exit code {process.returncode}"] += process.returncode not in ORDERLY
        rng = random.Random(6)
        lost += asyncio.run(_in_process(folder, (mutated(rng) for _ in range(raw))))
        for kind in ("base", "lstm", "multi"):
            bundle = small_bundle(Path(name), kind, kind)
            lost += asyncio.run(_in_process(bundle, _requests(kind, random.Random(7), requests // 3)))
        lost += _memories(memories)
    tried = f"{wire} raw requests on the wire, {raw} in process, {requests} nearly right ones, {memories} memories"
    return tried, said(+lost), ""


def seeds() -> list[bytes]:
    """Requests that bytes are changed of."""
    body = json.dumps({"state": states(1)[0]}).encode()
    return [
        b"POST /predict HTTP/1.1\r\nhost: t\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body),
        b'POST /v1/batch HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{"ins\r\n0\r\n\r\n',
        b"GET /ready HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n",
        b"POST /v1/decide HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n{}",
        b"GET /docs?x=%ff HTTP/1.0\r\n\r\n",
        b"HEAD /health HTTP/1.1\r\nhost: t\r\nx-request-id: abc\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: t\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\n{}",
    ]


SEEDS = seeds()


def mutated(rng: random.Random) -> bytes:
    """One of SEEDS, or two behind each other, with some bytes changed, gone or too many."""
    data = bytearray(rng.choice(SEEDS) * rng.choice([1, 1, 1, 2]))
    for _ in range(rng.choice([0, 1, 1, 2, 5, 20])):
        at = rng.randrange(len(data))
        how = rng.randrange(5)
        if how == 0:
            data[at] = rng.randrange(256)
        elif how == 1:
            del data[at : at + rng.randrange(1, 10)]
        elif how == 2:
            data[at:at] = rng.choice([b"\r\n", b"\0", b"\xff", b"%00", b":", b" ", rng.randbytes(4), b"9" * 30])
        elif how == 3:
            data[at:at] = data[: rng.randrange(1, 40)]
        else:
            del data[at:]
        data = data or bytearray(b"\n")
    return bytes(data)


async def _raw(port: int, count: int, path: bytes = b"") -> Counter[str]:
    """On the wire; `path` asks for that path alone."""
    rng, lost, gate = random.Random(5), Counter[str](), asyncio.Semaphore(32)
    planted = b"GET %b HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n" % path

    async def one(sent: bytes) -> None:
        async with gate:
            with suppress(OSError, TimeoutError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(sent)
                writer.write_eof()
                answer = await asyncio.wait_for(reader.read(-1), 10)
                writer.close()
                lost.update(_wrong(answer))

    for start in range(0, count, 500):
        await asyncio.gather(*(one(planted if path else mutated(rng)) for _ in range(min(500, count - start))))
    return lost


def _wrong(answers: bytes) -> Iterator[str]:
    """What is wrong with all that came back on a connection."""
    for part in answers.split(b"HTTP/1.1 ")[1:]:
        if part[:1] == b"5":
            yield f"status {part[:3].decode()}"
        elif part[:3] == b"200" and b"application/json" in part:
            _, _, body = part.partition(b"\r\n\r\n")
            if b'"confidence"' in body and not _finite(json.loads(body)):
                yield "an answer that is not finite"


def _finite(found: Any) -> bool:
    if isinstance(found, dict):
        return all(map(_finite, found.values()))
    if isinstance(found, list):
        return all(map(_finite, found))
    return not isinstance(found, float) or math.isfinite(found)


class _Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = bytearray()
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0


async def _in_process(folder: Path, sent: Iterator[bytes], planted: str = "") -> Counter[str]:
    """Each of `sent` on a connection of its own, cut in two; then the client is gone."""
    from fastapi import Response

    from himari_rl.serving.http.app import create_app
    from himari_rl.serving.http.run import make_server

    app, lost, lines = create_app(folder), Counter[str](), list[str]()
    app.state.service.load()
    app.state.service.journal._write = lines.append
    if planted:

        @app.get(planted, response_model=None)
        async def fails() -> Response:
            raise ZeroDivisionError

    server, loop = make_server(app), asyncio.get_running_loop()
    server.config.load()
    state, made = server.server_state, cast(Any, server.config.http_protocol_class)
    loop.set_exception_handler(lambda _, context: lost.update([f"unhandled: {context['message']}"[:60]]))
    rng = random.Random(8)
    open_ones: list[tuple[Any, _Wire]] = []
    while True:
        for data in (piece for _, piece in zip(range(TOGETHER), sent, strict=False)):
            protocol, wire = made(config=server.config, server_state=state, app_state={}, _loop=loop), _Wire()
            protocol.connection_made(wire)
            cut = rng.randrange(len(data) + 1)
            for part in (data[:cut], data[cut:]):
                if part and not wire.closed:
                    protocol.data_received(part)
            open_ones.append((protocol, wire))
        if not open_ones:
            break
        for gone in (False, True):
            for _ in range(5):
                await asyncio.sleep(0)
            if not gone:
                for protocol, _ in open_ones:
                    protocol.connection_lost(None)
        if state.tasks:
            await asyncio.wait(set(state.tasks), timeout=PATIENCE_S)
            lost["requests that never end"] += len(state.tasks)
        for _, wire in open_ones:
            lost.update(_wrong(bytes(wire.written)))
        open_ones.clear()
    lost["tracebacks"] += sum("Traceback" in line for line in lines)
    return lost


def _requests(kind: str, rng: random.Random, count: int) -> Iterator[bytes]:
    """Requests whose document is right but for some values, names or places."""
    from helpers.bundle import SYMBOLS, valid_states

    symbols = SYMBOLS[kind]
    many = valid_states(50, len(symbols), seed=4).tolist()
    hour = 1_767_225_600_000
    part = {
        "bar": {"timestamp": hour, "close": 100.0},
        "signal": {"action": "BUY", "confidence": 0.8, "tier": "T2", "cascade_risk": 0.05},
        "account": {"exposure": 0.1, "unrealised_pnl": 0.0, "win_rate": 0.5},
        "history": [[hour - k * 3_600_000, 100.0 + k % 3] for k in range(25, 0, -1)],
    }
    raw: dict[str, Any] = part if len(symbols) == 1 else {"assets": dict.fromkeys(symbols, part)}
    for number in range(count):
        state = many[number % len(many)]
        documents: list[tuple[str, Any]] = [
            ("/predict", {"state": state}),
            ("/predict", {"state": state, "session_id": "s", "timestamp": hour}),
            ("/predict", {"sequence": [state, state]}),
            ("/predict", {"state": state, "memory": "AAAA"}),
            ("/v1/batch", {"instances": [state, state]}),
            ("/v1/decide", raw),
            ("/v1/decide", raw | {"session_id": "s"}),
        ]
        path, document = rng.choice(documents)
        document = json.loads(json.dumps(document))
        for _ in range(rng.choice([0, 1, 1, 2, 4])):
            _spoil(document, rng)
        body = json.dumps(document).encode()
        yield b"POST %b HTTP/1.1\r\nhost: t\r\ncontent-length: %d\r\n\r\n%b" % (path.encode(), len(body), body)


_ODD: tuple[Any, ...] = (
    None,
    True,
    "",
    "x",
    "\ud800",
    "\0",
    [],
    {},
    [[]],
    -1,
    0,
    2**63,
    10**400,
    1e308,
    -1e308,
    5e-324,
    0.1,
    -0.0,
)
_ODD += (math.nan, math.inf, -math.inf, 1.0000001, "1", 1_767_225_600, "BTC-USDT", {"state": []}, [1e400], "9" * 500)


def _spoil(document: Any, rng: random.Random) -> None:
    """Changes one place of a document."""
    while True:
        names = list(document) if isinstance(document, dict) else list(range(len(document)))
        if not names:
            return
        name = rng.choice(names)
        if isinstance(document[name], dict | list) and document[name] and rng.random() < 0.8:
            document = document[name]
            continue
        how = rng.randrange(4)
        if how == 0:
            del document[name]
        elif how == 1 and isinstance(document, dict):
            document[rng.choice(["x", "state", "symbol", "history", "\ud800", "__class__"])] = document.pop(name)
        elif how == 2 and isinstance(document, list):
            document.insert(name, copy.deepcopy(rng.choice(_ODD)))
        else:
            document[name] = copy.deepcopy(rng.choice(_ODD))
        return


def _memories(count: int) -> Counter[str]:
    """Texts that are nearly a memory: each is refused by name, but the whole one."""
    import numpy as np

    from himari_rl.serving.memory import SignedMemoryError, pack, unpack

    rng, lost = random.Random(9), Counter[str]()
    policy, key, memory = "ab" * 32, b"k" * 32, np.arange(20, dtype=np.float32)
    whole = pack(memory, policy, key)
    lost["the whole one refused"] += not np.array_equal(unpack(whole, policy, key, 20), memory)
    letters = "ABCabc012+/-_=\n é\0"
    for _ in range(count):
        text = list(whole)
        for _ in range(rng.choice([1, 1, 2, 10])):
            at, how = rng.randrange(len(text)), rng.randrange(4)
            if how == 0:
                text[at] = rng.choice(letters)
            elif how == 1:
                del text[at]
            elif how == 2:
                text.insert(at, rng.choice(letters))
            else:
                del text[at:]
            text = text or ["A"]
        if (changed := "".join(text)) != whole:
            try:
                unpack(changed, policy, key, 20)
                lost["a changed memory taken"] += 1
            except SignedMemoryError:
                pass
    return lost


def raw_http_with_a_bug() -> str:
    """The controls: a route that fails is seen on the wire and in process."""
    from fastapi import Response

    from helpers.serving import running
    from himari_rl.serving.http.app import create_app

    with tempfile.TemporaryDirectory() as name:
        folder = small_bundle(Path(name), "m")
        app = create_app(folder)

        @app.get("/planted", response_model=None)
        async def planted() -> Response:
            return Response(status_code=500)

        with running(app) as client:
            wire = said(asyncio.run(_raw(client.base_url.port or 0, 5, b"/planted")))
        asked = iter([b"GET /planted HTTP/1.1\r\nhost: t\r\n\r\n"] * 3)
        within = said(+asyncio.run(_in_process(folder, asked, "/planted")))
    return "" if "nothing" in (wire, within) else f"{wire}; in process {within}"
