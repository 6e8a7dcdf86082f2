"""Lines of the fault drill on a running server: swaps, floods, raw bytes; drill_endurance.py has SIGTERM and a soak.

Each server is a process of its own, cloud_run/api_server.py, as a container starts it.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

Found = tuple[str, str, str]  # tried, lost, note
RATE = 200.0  # requests/s
FULL_SWAPS, FULL_FLOOD_S, FULL_RAW, FULL_TERMS, FULL_SOAK_S = 1_000, 60.0, 1_000_000, 200, 7_200.0
ORDERLY = (0, -signal.SIGTERM)
"""Exit codes of a server that ended as asked; uvicorn raises the signal again when it is done."""
LEAST_SOAK_S = 60.0


def small_bundle(place: Path, name: str, kind: str = "base", seed: int = 0) -> Path:
    from helpers.bundle import make_bundle

    return make_bundle(place, kind, hidden=(16,), name=name, weights_seed=seed)


@contextmanager
def server_on(source: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server process that nobody reads from but at its end, and its port."""
    from helpers.serving import cloud_run_server

    with cloud_run_server(source, **environment) as (process, client):
        yield process, client.base_url.port or 0


def _ask(port: int, path: str, **more: Any) -> Any:
    return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=20, **more).json()


def states(count: int) -> list[list[float]]:
    from helpers.bundle import valid_states

    found: list[list[float]] = valid_states(count, seed=3).tolist()
    return found


class Load:
    """Requests at a rate, whatever the server does; each answer is judged."""

    def __init__(self, port: int, judge: Callable[[list[float], int, Any], str], rate: float = RATE) -> None:
        self.seconds: list[tuple[float, float]] = []  # when it was due, and how long it took
        self.wrong: Counter[str] = Counter()
        self._port, self._judge, self._rate = port, judge, rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def p99_ms(self, begin: float = 0.0, end: float = float("inf")) -> float:
        taken = [took for due, took in self.seconds if begin <= due < end]
        return statistics.quantiles(taken, n=100)[98] * 1e3 if len(taken) > 100 else float("nan")

    async def _run(self) -> None:
        from helpers.serving import Connection

        cycle, idle = states(50), []
        tasks: set[asyncio.Task[None]] = set()

        async def one(number: int, due: float) -> None:
            state = cycle[number % len(cycle)]
            try:
                connection = idle.pop() if idle else await Connection.to(self._port)
                try:
                    status, answer = await connection.post("/predict", {"state": state})
                except (OSError, asyncio.IncompleteReadError):  # closed while it was idle: as every client, once more
                    connection = await Connection.to(self._port)
                    status, answer = await connection.post("/predict", {"state": state})
                if problem := self._judge(state, status, answer):
                    self.wrong[problem] += 1
                idle.append(connection)
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                self.wrong[type(error).__name__] += 1
            self.seconds.append((due, time.monotonic() - due))

        number, due = 0, time.monotonic()
        while not self._stop.is_set():
            due += 1.0 / self._rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            tasks.add(task := asyncio.create_task(one(number, due)))
            task.add_done_callback(tasks.discard)
            number += 1
        await asyncio.gather(*tasks)
        for connection in idle:
            connection.close()


def swaps(size: float) -> Found:
    """200 requests/s while the alias moves to and fro, every tenth time to a damaged bundle."""
    return _swaps(max(10, round(FULL_SWAPS * size)))


def _swaps(count: int, spoil: bool = False) -> Found:
    from himari_rl.policy.alias import point
    from himari_rl.policy.bundle import WEIGHTS
    from himari_rl.policy.runtime import load_policy

    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        folders = [small_bundle(place, f"m{i}", seed=i) for i in range(2)]
        policies = {policy.manifest.version: policy for policy in map(load_policy, folders)}
        alias, bad = str(place / "champion.json"), place / "bad"
        point(alias, str(folders[0]))
        known: dict[tuple[str, tuple[float, ...]], float] = {}

        def judge(state: list[float], status: int, answer: Any) -> str:
            """A mixed answer is one model's name and another's multiplier."""
            if status != 200:
                return f"status {status}"
            key = (answer["model_version"], tuple(state))
            if key not in known:
                policy = policies.get(key[0])
                known[key] = float(policy.decide(state).multipliers[0]) if policy else -1.0
            wanted = answer.get("risk", {}).get("wanted", {}).get("BTC-USDT", answer["position_multiplier"])
            return "" if abs(wanted - known[key]) < 1e-9 else "mixed version"

        reloads, lost = 0, Counter[str]()
        with server_on(Path(alias), HIMARI_RELOAD_S="0.05") as (_, port), Load(port, judge) as load:
            time.sleep(2.0)
            steady_end = time.monotonic()
            for number in range(count):
                if number % 10 == 9:
                    shutil.rmtree(bad, ignore_errors=True)
                    shutil.copytree(folders[number % 2], bad)
                    data = bytearray((bad / WEIGHTS).read_bytes())
                    data[-1] ^= 1
                    (bad / WEIGHTS).write_bytes(data)  # before it is offered: whole for a moment, it could be taken
                    point(alias, str(bad))
                    _until(lambda: _ask(port, "/ready")["champion"]["refused"] or None, lost, "a bad model taken")
                else:
                    point(alias, str(folders[(spoil and 1) or number % 2]))
                    wanted = load_policy(folders[number % 2]).manifest.version
                    _until(lambda w=wanted: _ask(port, "/ready")["model_version"] == w or None, lost, "a swap not made")
                    reloads += 1
                if spoil and lost:
                    break
            end = time.monotonic()
        lost += load.wrong
        ratio = load.p99_ms(steady_end, end) / load.p99_ms(0.0, steady_end)
        tried = f"{reloads} swaps, {count // 10} bad models, {len(load.seconds)} requests"
        note = f"P99 {load.p99_ms(0.0, steady_end):.1f} ms steady, {ratio:.2f}x of it in swaps (bar 1.5)"
        return tried, said(lost), note


def _until(found: Callable[[], Any], lost: Counter[str], what: str, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found():
            return
        time.sleep(0.01)
    lost[what] += 1


def said(lost: Counter[str]) -> str:
    return "; ".join(f"{number} {what}" for what, number in sorted(lost.items())) or "nothing"


def swaps_without_checks() -> str:
    """The control: an alias that is moved to the same model again and again makes no swap, and the line says so."""
    found = _swaps(3, spoil=True)[1]
    return "" if found == "nothing" else found


def floods(size: float) -> Found:
    """Heads that drip, bodies that never come, idle connections; beside them one good client from another address."""
    return _floods(max(4.0, FULL_FLOOD_S * size))


def _floods(seconds: float, **environment: str) -> Found:
    import psutil

    bodies = b"POST /predict HTTP/1.1\r\nhost: t\r\ncontent-length: 500\r\n\r\n{"
    kinds = {"bodies": (bodies, b""), "heads": (b"POST /predict HTTP/1.1\r\nx-a: ", b"x"), "idle": (b"", b"")}
    lost, notes = Counter[str](), []
    with tempfile.TemporaryDirectory() as name:
        folder = small_bundle(Path(name), "m")
        limits = {"HIMARI_HEAD_TIMEOUT_S": "5", "HIMARI_BODY_TIMEOUT_S": "5", "HIMARI_MAX_BODIES_EACH": "64"}
        limits |= {"HIMARI_MAX_CONCURRENCY": "128"} | environment
        with server_on(folder, **limits) as (process, port):
            before = psutil.Process(process.pid).memory_info().rss
            with Load(port, lambda _, status, __: "" if status == 200 else f"good client: status {status}") as load:
                time.sleep(2.0)
                steady = time.monotonic()
                for kind, (first, drip) in kinds.items():
                    begun = time.monotonic()
                    health = asyncio.run(_flood(port, first, drip, seconds))
                    notes.append(f"{kind}: good P99 {load.p99_ms(begun):.0f} ms, /health {health * 1e3:.0f} ms")
                notes.insert(0, f"steady P99 {load.p99_ms(0.0, steady):.0f} ms")
            lost += load.wrong
            grown = (psutil.Process(process.pid).memory_info().rss - before) / 1e6
            if grown > 60.0:
                lost[f"memory grew by {grown:.0f} MB"] += 1
            begun = time.monotonic()
            answer = httpx.post(f"http://127.0.0.1:{port}/predict", json={"state": states(1)[0]}, timeout=20)
            notes.append(f"recovery {time.monotonic() - begun:.2f} s, memory +{grown:.0f} MB")
            lost["no answer afterwards"] += answer.status_code != 200
            overload = asyncio.run(_overload(port, seconds))
            lost += Counter({f"overload: status {s}": n for s, n in overload.items() if s not in (200, 429, 503)})
    tried = f"3 floods of 300 connections, {seconds:.0f} s each; {sum(overload.values())} requests at once"
    return tried, said(+lost), "; ".join(notes)


async def _flood(port: int, first: bytes, drip: bytes, seconds: float, count: int = 300) -> float:
    """Holds `count` connections, opened again where the server ends them; the slowest /health meanwhile, seconds."""
    end, slowest = time.monotonic() + seconds, 0.0

    async def hold() -> None:
        while time.monotonic() < end:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.9", 0))
                writer.write(first)
                while time.monotonic() < end and not reader.at_eof():
                    writer.write(drip)
                    with suppress(TimeoutError):
                        await asyncio.wait_for(reader.read(1000), 0.2)
                writer.close()

    tasks = [asyncio.create_task(hold()) for _ in range(count)]
    while time.monotonic() < end:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:  # as a probe: anew
            begun = time.monotonic()
            assert (await client.get("/health")).status_code == 200
            slowest = max(slowest, time.monotonic() - begun)
        await asyncio.sleep(0.1)
    await asyncio.gather(*tasks)
    return slowest


async def _overload(port: int, seconds: float, count: int = 400) -> Counter[int]:
    """Many clients that ask the slow way as fast as they can: statuses."""
    from helpers.serving import Connection

    statuses, end, many = Counter[int](), time.monotonic() + seconds, states(50)

    async def client() -> None:
        connection = None
        while time.monotonic() < end:
            try:
                connection = connection or await Connection.to(port)
                status, _ = await connection.post("/v1/batch", {"instances": many})
                statuses[status] += 1
            except (OSError, asyncio.IncompleteReadError):
                connection = None

    await asyncio.gather(*(client() for _ in range(count)))
    return +statuses


def floods_without_bounds() -> str:
    """The control: with no bound for an address, awaited bodies take every place, and the good client is refused."""
    unbound = {"HIMARI_MAX_BODIES_EACH": "100000", "HIMARI_MAX_CONCURRENCY": "64", "HIMARI_TURBO": "0"}
    found = _floods(4.0, **unbound, HIMARI_BODY_TIMEOUT_S="30")[1]
    return "" if found == "nothing" else found


def raw_http(size: float) -> Found:
    """Bytes that are nearly HTTP: no 5xx, no traceback, and the server goes on."""
    count = max(
        500, round(FULL_RAW * size / 10)
    )  # the full size is a tenth in bytes on the wire and the rest in process
    with tempfile.TemporaryDirectory() as name:
        folder = small_bundle(Path(name), "m")
        with server_on(folder, HIMARI_HEAD_TIMEOUT_S="1", HIMARI_BODY_TIMEOUT_S="1") as (process, port):
            lost = asyncio.run(_raw(port, count))
            lost["no answer afterwards"] += _ask(port, "/health") != {"status": "alive"}
            process.send_signal(signal.SIGTERM)
            _, stderr = process.communicate(timeout=30)
            lost["tracebacks"] += stderr.count("Traceback")
            lost[f"exit code {process.returncode}"] += process.returncode not in ORDERLY
    return f"{count} raw requests", said(+lost), ""


async def _raw(port: int, count: int, path: bytes = b"") -> Counter[str]:
    rng, lost, body = random.Random(5), Counter[str](), json.dumps({"state": states(1)[0]}).encode()
    seeds = [
        b"POST /predict HTTP/1.1\r\nhost: t\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body),
        b'POST /v1/batch HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{"ins\r\n0\r\n\r\n',
        b"GET /ready HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n",
        b"POST /v1/decide HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n{}",
        b"GET /docs?x=%ff HTTP/1.0\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nhost: t\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\n{}",
    ]
    if path:
        seeds = [b"GET %b HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n" % path]
    gate = asyncio.Semaphore(32)

    async def one(sent: bytes) -> None:
        async with gate:
            with suppress(OSError, TimeoutError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(sent)
                writer.write_eof()
                answer = await asyncio.wait_for(reader.read(-1), 10)
                writer.close()
                for part in answer.split(b"HTTP/1.1 ")[1:]:
                    if part[:1] == b"5":
                        lost[f"status {part[:3].decode()}"] += 1

    def mutated() -> bytes:
        data = bytearray(rng.choice(seeds) * rng.choice([1, 1, 1, 2]))
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

    for start in range(0, count, 500):
        await asyncio.gather(*(one(seeds[0] if path else mutated()) for _ in range(min(500, count - start))))
    return lost


def raw_http_with_a_bug() -> str:
    """The control: a route that fails is seen."""
    from fastapi import Response

    from helpers.serving import running
    from himari_rl.serving.http.app import create_app

    with tempfile.TemporaryDirectory() as name:
        app = create_app(small_bundle(Path(name), "m"))

        @app.get("/planted", response_model=None)
        async def planted() -> Response:
            return Response(status_code=500)

        with running(app) as client:
            found = said(asyncio.run(_raw(client.base_url.port or 0, 5, b"/planted")))
    return "" if found == "nothing" else found
