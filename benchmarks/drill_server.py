"""Lines of the fault drill on a running server: swaps and floods.

drill_raw.py sends it bytes that are nearly HTTP, drill_endurance.py has SIGTERM and a soak.

Each server is a process of its own, cloud_run/api_server.py, as a container starts it.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from helpers import PATIENCE_S

SOURCE = Path(__file__).resolve().parents[1] / "src"
Found = tuple[str, str, str]  # tried, lost, note
RATE = 200.0  # requests/s
FULL_SWAPS, FULL_FLOOD_S, FULL_TERMS, FULL_SOAK_S = 1_000, 60.0, 200, 7_200.0
ORDERLY = (0, -signal.SIGTERM)
"""Exit codes of a server that ended as asked; uvicorn raises the signal again when it is done."""
LEAST_SOAK_S = 180.0
MOST_AT_ONCE = 64
"""Requests that the flooded server answers at once."""
GOOD_MOST = MOST_AT_ONCE // 8 - 2
"""Of the good client beside a flood: within the share that middleware.py promises an address (an eighth). At 200
requests/s a machine that is busy with something else would have more of them at once, and rightly refuse some."""


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
    return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S, **more).json()


def states(count: int) -> list[list[float]]:
    from helpers.bundle import valid_states

    found: list[list[float]] = valid_states(count, seed=3).tolist()
    return found


CYCLE = states(50)
"""What Load asks, over and over."""


class Load:
    """Requests at a rate, whatever the server does, but for `most` at once; each answer is judged.

    What waits for one of the `most` counts from when it was due.
    """

    def __init__(
        self, port: int, judge: Callable[[list[float], int, Any], str], rate: float = RATE, most: int = 10**6
    ) -> None:
        self.seconds: list[tuple[float, float]] = []  # when it was due, and how long it took
        self.wrong: Counter[str] = Counter()
        self._port, self._judge, self._rate, self._most = port, judge, rate, most
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

        idle: list[Connection] = []
        tasks: set[asyncio.Task[None]] = set()

        async def one(number: int, due: float) -> None:
            state = CYCLE[number % len(CYCLE)]
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
            while len(tasks) >= self._most:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            tasks.add(task := asyncio.create_task(one(number, due)))
            task.add_done_callback(tasks.discard)
            number += 1
        await asyncio.gather(*tasks)
        for connection in idle:
            connection.close()


def swaps(size: float) -> Found:
    """200 requests/s while the alias moves to and fro, every tenth time to a damaged bundle."""
    return _swaps(max(10, round(FULL_SWAPS * size)))


def spoiled(folder: Path, place: Path) -> None:
    """A copy of a bundle with one bit of its weights flipped, in place of what was there."""
    from himari_rl.policy.bundle import WEIGHTS

    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place)
    data = bytearray((place / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (place / WEIGHTS).write_bytes(data)


def _swaps(count: int, spoil: bool = False) -> Found:
    from himari_rl.policy.alias import point
    from himari_rl.policy.runtime import load_policy

    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        folders = [small_bundle(place, f"m{i}", seed=i) for i in range(2)]
        policies = [load_policy(folder) for folder in folders]
        versions = [policy.manifest.version for policy in policies]
        # all that is compared is known before: what this process computes meanwhile would be measured as the server's
        known: dict[tuple[str, tuple[float, ...]], float] = {}
        for version, policy in zip(versions, policies, strict=True):
            known |= {(version, tuple(state)): policy.step(state).multipliers[0] for state in CYCLE}
        alias, bad = str(place / "champion.json"), place / "bad"
        point(alias, str(folders[0]))

        def judge(state: list[float], status: int, answer: Any) -> str:
            """A mixed answer is one model's name and another's multiplier."""
            if status != 200:
                return f"status {status}"
            expected = known.get((answer["model_version"], tuple(state)), -1.0)
            wanted = answer.get("risk", {}).get("wanted", {}).get("BTC-USDT", answer["position_multiplier"])
            return "" if abs(wanted - expected) < 1e-9 else "mixed version"

        reloads, lost, patience_s = 0, Counter[str](), 20.0 if spoil else PATIENCE_S
        with (
            server_on(Path(alias), HIMARI_RELOAD_S="0.05") as (_, port),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as asked,
            Load(port, judge) as load,
        ):
            # the steady part writes and asks as much, at an alias that nobody follows: that costs this process, too
            ends = time.monotonic() + max(2.0, min(20.0, count / 20))
            for number in itertools.count():
                if time.monotonic() > ends:
                    break
                if number % 10 == 9:
                    spoiled(folders[number % 2], bad)
                point(str(place / "aside.json"), str(folders[number % 2]))
                for _ in range(3):
                    asked.get("/ready")
                    time.sleep(0.02)
            steady_end = time.monotonic()
            for number in range(count):
                if number % 10 == 9:
                    spoiled(folders[number % 2], bad)  # before it is offered: whole for a moment, it could be taken
                    point(alias, str(bad))
                    _until(
                        lambda: asked.get("/ready").json()["champion"]["refused"], lost, "a bad model taken", patience_s
                    )
                else:
                    point(alias, str(folders[(spoil and 1) or number % 2]))
                    wanted = versions[number % 2]
                    _until(
                        lambda w=wanted: asked.get("/ready").json()["model_version"] == w,
                        lost,
                        "a swap not made",
                        patience_s,
                    )
                    reloads += 1
                if spoil and lost:
                    break
            end = time.monotonic()
        lost += load.wrong
        ratio = load.p99_ms(steady_end, end) / load.p99_ms(0.0, steady_end)
        tried = f"{reloads} swaps, {count // 10} bad models, {len(load.seconds)} requests"
        note = f"P99 {load.p99_ms(0.0, steady_end):.1f} ms steady, {ratio:.2f}x of it in swaps (bar 1.5)"
        return tried, said(lost), note


def _until(found: Callable[[], object], lost: Counter[str], what: str, seconds: float) -> None:
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
        limits = {"HIMARI_HEAD_TIMEOUT_S": "5", "HIMARI_BODY_TIMEOUT_S": "5", "HIMARI_MAX_BODIES_EACH": "32"}
        limits |= {"HIMARI_MAX_CONCURRENCY": str(MOST_AT_ONCE)} | environment
        with server_on(folder, **limits) as (process, port):
            before = psutil.Process(process.pid).memory_info().rss
            with Load(port, _served, most=GOOD_MOST) as load:
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
            answer = httpx.post(f"http://127.0.0.1:{port}/predict", json={"state": states(1)[0]}, timeout=PATIENCE_S)
            notes.append(f"recovery {time.monotonic() - begun:.2f} s, memory +{grown:.0f} MB")
            lost["no answer afterwards"] += answer.status_code != 200
            overload, waited = asyncio.run(_overload(port, seconds))
            for answered, what in ((True, "answered"), (False, "refused")):
                times = sorted(waited[answered])
                late = f"P99 {times[len(times) * 99 // 100] * 1e3:.0f} ms" if times else "none"
                notes.append(f"at 400 clients {what} {late} of {len(times)}")
            lost += Counter({f"overload: status {s}": n for s, n in overload.items() if s not in (200, 429, 503)})
    tried = f"3 floods of 300 connections, {seconds:.0f} s each; {sum(overload.values())} requests at once"
    return tried, said(+lost), "; ".join(notes)


def _served(_: list[float], status: int, __: Any) -> str:
    return "" if status == 200 else f"good client: status {status}"


async def _flood(port: int, first: bytes, drip: bytes, seconds: float) -> float:
    """The slowest /health, seconds, while another process floods: in this one it would slow down what is measured."""
    end, slowest = time.monotonic() + seconds, 0.0
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        flood = pool.submit(_hold_many, port, first, drip, seconds)
        while time.monotonic() < end or not flood.done():
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S
            ) as client:  # as a probe: anew
                begun = time.monotonic()
                assert (await client.get("/health")).status_code == 200
                slowest = max(slowest, time.monotonic() - begun)
            await asyncio.sleep(0.1)
        flood.result()
    return slowest


def _hold_many(port: int, first: bytes, drip: bytes, seconds: float, count: int = 300) -> None:
    """Holds `count` connections, opened again where the server ends them."""
    end = time.monotonic() + seconds

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

    async def all_of_them() -> None:
        await asyncio.gather(*(hold() for _ in range(count)))

    asyncio.run(all_of_them())


async def _overload(port: int, seconds: float) -> tuple[Counter[int], dict[bool, list[float]]]:
    """Many clients of another process ask the slow way as fast as they can: their statuses, and the seconds that one
    more client of this one waited for an answer (True) or a refusal."""
    from helpers.serving import Connection

    end, waited, body = time.monotonic() + seconds, defaultdict[bool, list[float]](list), {"instances": states(50)}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        others = pool.submit(_ask_many, port, seconds)
        connection = None
        while time.monotonic() < end or not others.done():
            begun = time.monotonic()
            try:
                connection = connection or await Connection.to(port)
                status, _ = await connection.post("/v1/batch", body)
                waited[status == 200].append(time.monotonic() - begun)
            except (OSError, asyncio.IncompleteReadError):
                connection = None
            await asyncio.sleep(0.02)
        return others.result(), waited


def _ask_many(port: int, seconds: float, count: int = 400) -> Counter[int]:
    from helpers.serving import Connection

    statuses, end, body = Counter[int](), time.monotonic() + seconds, {"instances": states(50)}

    async def client() -> None:
        connection = None
        while time.monotonic() < end:
            try:
                connection = connection or await Connection.to(port)
                status, _ = await connection.post("/v1/batch", body)
                statuses[status] += 1
            except (OSError, asyncio.IncompleteReadError):
                connection = None

    async def all_of_them() -> None:
        await asyncio.gather(*(client() for _ in range(count)))

    asyncio.run(all_of_them())
    return +statuses


def floods_without_bounds() -> str:
    """The control: with no bound for an address, awaited bodies take every place, and the good client is refused.

    Both guards of it are removed, for each holds alone: the bodies that one address may have awaited, and the share of
    the places that an address has in any case, which no setting can take away.
    """
    with tempfile.TemporaryDirectory() as name:
        patch = "from himari_rl.serving.http import middleware\nmiddleware.SHARE = 10**9\n"
        (Path(name) / "sitecustomize.py").write_text(patch)
        path = os.pathsep.join([name, str(SOURCE), os.environ.get("PYTHONPATH", "")])
        found = _floods(4.0, HIMARI_MAX_BODIES_EACH="100000", HIMARI_BODY_TIMEOUT_S="30", PYTHONPATH=path)[1]
    return "" if found == "nothing" else found
