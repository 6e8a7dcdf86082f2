"""Lines of the fault drill on a running server: swaps, floods, raw bytes, SIGTERM, a soak.

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


def _bundle(place: Path, name: str, kind: str = "base", seed: int = 0) -> Path:
    from helpers.bundle import make_bundle

    return make_bundle(place, kind, hidden=(16,), name=name, weights_seed=seed)


@contextmanager
def _server(source: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server process that nobody reads from but at its end, and its port."""
    from helpers.serving import cloud_run_server

    with cloud_run_server(source, **environment) as (process, client):
        yield process, client.base_url.port or 0


def _ask(port: int, path: str, **more: Any) -> Any:
    return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=20, **more).json()


def _states(count: int) -> list[list[float]]:
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

        states, idle = _states(50), []
        tasks: set[asyncio.Task[None]] = set()

        async def one(number: int, due: float) -> None:
            state = states[number % len(states)]
            try:
                connection = idle.pop() if idle else await Connection.to(self._port)
                try:
                    status, answer = await connection.post("/predict", {"state": state})
                except (OSError, asyncio.IncompleteReadError):  # closed while it was idle: as every client, once more
                    connection = await Connection.to(self._port)
                    status, answer = await connection.post("/predict", {"state": state})
                if said := self._judge(state, status, answer):
                    self.wrong[said] += 1
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
        folders = [_bundle(place, f"m{i}", seed=i) for i in range(2)]
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
        with _server(Path(alias), HIMARI_RELOAD_S="0.05") as (_, port), Load(port, judge) as load:
            time.sleep(2.0)
            steady_end = time.monotonic()
            for number in range(count):
                if number % 10 == 9:
                    shutil.rmtree(bad, ignore_errors=True)
                    shutil.copytree(folders[number % 2], bad)
                    point(alias, str(bad))
                    data = bytearray((bad / WEIGHTS).read_bytes())
                    data[-1] ^= 1
                    (bad / WEIGHTS).write_bytes(data)
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
        return tried, _said(lost), note


def _until(found: Callable[[], Any], lost: Counter[str], what: str, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found():
            return
        time.sleep(0.01)
    lost[what] += 1


def _said(lost: Counter[str]) -> str:
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
        folder = _bundle(Path(name), "m")
        limits = {"HIMARI_HEAD_TIMEOUT_S": "5", "HIMARI_BODY_TIMEOUT_S": "5", "HIMARI_MAX_BODIES_EACH": "64"}
        limits |= {"HIMARI_MAX_CONCURRENCY": "128"} | environment
        with _server(folder, **limits) as (process, port):
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
            answer = httpx.post(f"http://127.0.0.1:{port}/predict", json={"state": _states(1)[0]}, timeout=20)
            notes.append(f"recovery {time.monotonic() - begun:.2f} s, memory +{grown:.0f} MB")
            lost["no answer afterwards"] += answer.status_code != 200
            overload = asyncio.run(_overload(port, seconds))
            lost += Counter({f"overload: status {s}": n for s, n in overload.items() if s not in (200, 429, 503)})
    tried = f"3 floods of 300 connections, {seconds:.0f} s each; {sum(overload.values())} requests at once"
    return tried, _said(+lost), "; ".join(notes)


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

    statuses, end, many = Counter[int](), time.monotonic() + seconds, _states(50)

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
        folder = _bundle(Path(name), "m")
        with _server(folder, HIMARI_HEAD_TIMEOUT_S="1", HIMARI_BODY_TIMEOUT_S="1") as (process, port):
            lost = asyncio.run(_raw(port, count))
            lost["no answer afterwards"] += _ask(port, "/health") != {"status": "alive"}
            process.send_signal(signal.SIGTERM)
            _, stderr = process.communicate(timeout=30)
            lost["tracebacks"] += stderr.count("Traceback")
            lost[f"exit code {process.returncode}"] += process.returncode not in ORDERLY
    return f"{count} raw requests", _said(+lost), ""


async def _raw(port: int, count: int, path: bytes = b"") -> Counter[str]:
    rng, lost, body = random.Random(5), Counter[str](), json.dumps({"state": _states(1)[0]}).encode()
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
        app = create_app(_bundle(Path(name), "m"))

        @app.get("/planted", response_model=None)
        async def planted() -> Response:
            return Response(status_code=500)

        with running(app) as client:
            found = _said(asyncio.run(_raw(client.base_url.port or 0, 5, b"/planted")))
    return "" if found == "nothing" else found


def terminated(size: float) -> Found:
    """SIGTERM while requests come: whatever was answered was answered whole, and the process ends within its grace."""
    count = max(3, round(FULL_TERMS * size))
    lost, slowest, asked = Counter[str](), 0.0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = _bundle(Path(name), "m")
        for _ in range(count):
            more, took, answered = _terminate(folder, signal.SIGTERM)
            lost += more
            slowest, asked = max(slowest, took), asked + answered
    if slowest > 8.0:
        lost["slow exits"] += 1
    return f"{count} servers, {asked} requests", _said(+lost), f"slowest exit {slowest:.2f} s (bar 8)"


def _terminate(folder: Path, how: signal.Signals) -> tuple[Counter[str], float, int]:
    lost, stop, answered = Counter[str](), threading.Event(), 0
    head = b"POST /v1/batch HTTP/1.1\r\nhost: t\r\ncontent-length: %d\r\n\r\n%b"
    body = json.dumps({"instances": _states(100)}).encode()

    def client(port: int) -> None:
        """An answer that has begun must come whole; what is sent to a closed connection was not accepted."""
        import socket

        nonlocal answered
        while not stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=20) as wire:
                    while not stop.is_set():
                        wire.sendall(head % (len(body), body))
                        got = b""
                        while b"\r\n\r\n" not in got and (part := wire.recv(65_536)):
                            got += part
                        if not got:  # closed between two requests: this one was not accepted
                            break
                        length = int(got.lower().partition(b"content-length: ")[2].split(b"\r")[0])
                        whole = got.index(b"\r\n\r\n") + 4 + length
                        while len(got) < whole and (part := wire.recv(65_536)):
                            got += part
                        lost["answers cut off"] += len(got) < whole
                        answered += 1
            except ConnectionRefusedError:
                return
            except OSError:  # reset: the server closed before it read
                continue

    with _server(folder) as (process, port):
        threads = [threading.Thread(target=client, args=(port,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        begun = time.monotonic()
        process.send_signal(how)
        process.wait(30)
        took = time.monotonic() - begun
        stop.set()
        for thread in threads:
            thread.join()
        lost[f"exit code {process.returncode}"] += process.returncode not in ORDERLY
    return +lost, took, answered


def terminated_without_grace() -> str:
    """The control: a server that is killed instead."""
    with tempfile.TemporaryDirectory() as name:
        return _said(_terminate(_bundle(Path(name), "m"), signal.SIGKILL)[0]).replace("nothing", "")


def soak(size: float) -> Found:
    """Requests, sessions, streams and swaps together; memory, descriptors and threads must not grow."""
    return _soak(max(LEAST_SOAK_S, FULL_SOAK_S * size / 2))


def _soak(seconds: float, leak: bool = False) -> Found:
    import psutil

    from himari_rl.policy.alias import point
    from himari_rl.schema import HOUR_MS

    lost, samples = Counter[str](), []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        folders = [_bundle(place, f"m{i}", "lstm", seed=i) for i in range(2)]
        alias = str(place / "champion.json")
        point(alias, str(folders[0]))
        bounds = {"HIMARI_MAX_SESSIONS": "1000000" if leak else "200", "HIMARI_MAX_SESSIONS_EACH": "1000000"}
        with _server(Path(alias), HIMARI_RELOAD_S="0.2", **bounds) as (process, port):
            watched = psutil.Process(process.pid)
            state, hour = _states(1)[0], int(time.time() * 1e3) // HOUR_MS * HOUR_MS
            start = time.monotonic()
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                number = 0
                while (now := time.monotonic() - start) < seconds:
                    number += 1
                    name_of = f"s{number if leak else number % 100}"
                    body = {"state": state, "session_id": name_of, "timestamp": hour}
                    lost["refused"] += client.post("/predict", json=body).status_code != 200
                    lost["refused"] += client.post("/v1/batch", json={"instances": [state] * 20}).status_code != 200
                    lost["streams refused"] += (
                        client.post("/v1/decide", json=_raw_bars(name_of, hour)).status_code != 200
                    )
                    if number % 200 == 0:
                        point(alias, str(folders[number // 200 % 2]))
                    if now > seconds / 3 and number % 20 == 0:  # after warm-up
                        samples.append((now, watched.memory_info().rss / 1e6, watched.num_fds(), watched.num_threads()))
    times, memory, files, threads = zip(*samples, strict=True)
    slope = statistics.linear_regression(times, memory).slope * 3600.0
    half = len(memory) // 2
    grown = statistics.median(memory[half:]) - statistics.median(memory[:half])
    lost["descriptors that grew"] += max(files[half:]) > max(files[:half]) + 3
    lost["threads that grew"] += max(threads[half:]) > max(threads[:half]) + 2
    if slope > 1.0 and grown > 0.5:
        lost[f"memory slope {slope:.1f} MB/h"] += 1
    tried = f"{number} rounds of 3 requests in {seconds:.0f} s, {number // 200} swaps"
    return tried, _said(+lost), f"memory slope {slope:.2f} MB/h (bar 1), {files[-1]} descriptors, {threads[-1]} threads"


def _raw_bars(session: str, hour: int) -> dict[str, Any]:
    step = 3_600_000
    last = hour - step
    return {
        "session_id": session,
        "bar": {"timestamp": last, "close": 100.0},
        "signal": {"action": "BUY", "confidence": 0.8, "tier": "T2", "cascade_risk": 0.05},
        "account": {"exposure": 0.1, "unrealised_pnl": 0.0, "win_rate": 0.5},
        "history": [[last - k * step, 100.0 + k % 3] for k in range(200, 0, -1)],
    }


def soak_with_a_leak() -> str:
    """The control: sessions without a bound, a new one each time."""
    found = _soak(LEAST_SOAK_S, leak=True)[1]
    return "" if found == "nothing" else found
