"""Lines of the fault drill on a running server: swaps and floods.

drill_raw.py sends it bytes that are nearly HTTP, drill_endurance.py has SIGTERM and a soak.

Each server is a process of its own, cloud_run/api_server.py, as a container starts it.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from drill_load import Known, Load, answered_or_refused, served
from helpers import PATIENCE_S

SOURCE = Path(__file__).resolve().parents[1] / "src"
T = TypeVar("T")
Found = tuple[str, str, str]  # tried, lost, note
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


CYCLE = [{"state": state} for state in states(50)]
"""What the load asks, over and over."""


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
        known: dict[tuple[str, tuple[float, ...]], float] = {}
        for version, policy in zip(versions, policies, strict=True):
            known |= {(version, tuple(state)): policy.step(state).multipliers[0] for state in states(50)}
        alias = str(place / "champion.json")
        point(alias, str(folders[0]))

        move = _Move(place, folders, versions, count, spoil)
        with server_on(Path(alias), HIMARI_RELOAD_S="0.05") as (_, port), Load(port, CYCLE, Known(known)) as load:
            steady = _timed(lambda: time.sleep(max(2.0, min(20.0, count / 20))))
            # it moves from a process that gives way: on two cores its own seconds would be measured as the server's
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _give_way) as pool:
                pool.submit(time.sleep, 0.0).result()  # it has started
                moving: list[tuple[int, Counter[str]]] = []
                swapping = _timed(lambda: moving.append(pool.submit(move, port).result()))
        reloads, lost = moving[0]
        lost += load.wrong
        ratio = load.p99_ms(*swapping) / load.p99_ms(*steady)
        tried = f"{reloads} swaps, {count // 10} bad models, {len(load.taken)} requests"
        note = f"P99 {load.p99_ms(*steady):.1f} ms steady, {ratio:.2f}x of it in swaps (bar 1.5)"
        return tried, said(lost), note


@dataclass(frozen=True)
class _Move:
    """Points the alias to and fro; gives the swaps that were seen, and what was lost."""

    place: Path
    folders: list[Path]
    versions: list[str]
    count: int
    spoil: bool

    def __call__(self, port: int) -> tuple[int, Counter[str]]:
        from himari_rl.policy.alias import point

        reloads, lost, patience_s = 0, Counter[str](), 20.0 if self.spoil else PATIENCE_S
        alias, bad = str(self.place / "champion.json"), self.place / "bad"
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as asked:
            for number in range(self.count):
                if number % 10 == 9:
                    # before it is offered: whole for a moment, it could be taken
                    spoiled(self.folders[number % 2], bad)
                    point(alias, str(bad))
                    _until(
                        lambda: asked.get("/ready").json()["champion"]["refused"], lost, "a bad model taken", patience_s
                    )
                else:
                    point(alias, str(self.folders[(self.spoil and 1) or number % 2]))
                    wanted = self.versions[number % 2]
                    _until(
                        lambda w=wanted: asked.get("/ready").json()["model_version"] == w,
                        lost,
                        "a swap not made",
                        patience_s,
                    )
                    reloads += 1
                if self.spoil and lost:
                    break
        return reloads, lost


def _give_way() -> None:
    """This process takes only what of a processor nobody else wants."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)


def _timed(what: Callable[[], object]) -> tuple[float, float]:
    """When something began and when it was over."""
    begun = time.monotonic()
    what()
    return begun, time.monotonic()


def _processor_s(pid: int) -> float:
    """Seconds of processor time that a process has had."""
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _until(found: Callable[[], object], lost: Counter[str], what: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found():
            return
        time.sleep(0.025)
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
            spans, more = {}, {"steady": ""}
            with Load(port, CYCLE, served, most=GOOD_MOST) as load:
                spans["steady"] = _timed(lambda: time.sleep(max(2.0, seconds / 3)))
                for kind, (first, drip) in kinds.items():
                    spent, begun = _processor_s(process.pid), time.monotonic()
                    opened = _elsewhere(_hold_many, port, first, drip, seconds)
                    spans[kind] = begun, time.monotonic()
                    busy = (_processor_s(process.pid) - spent) / (spans[kind][1] - begun)
                    more[kind] = f" ({opened} connections, the server {busy:.0%} busy)"
            notes += [
                f"{k}: good P99 {load.p99_ms(*s):.0f} ms, /health {load.slowest_probe_ms(*s):.0f} ms{more[k]}"
                for k, s in spans.items()
            ]
            lost += load.wrong
            grown = (psutil.Process(process.pid).memory_info().rss - before) / 1e6
            if grown > 60.0:
                lost[f"memory grew by {grown:.0f} MB"] += 1
            begun = time.monotonic()
            answer = httpx.post(f"http://127.0.0.1:{port}/predict", json={"state": states(1)[0]}, timeout=PATIENCE_S)
            notes.append(f"recovery {time.monotonic() - begun:.2f} s, memory +{grown:.0f} MB")
            lost["no answer afterwards"] += answer.status_code != 200
            batch = {"instances": states(50)}
            # one more client beside 400 of another process, which ask the slow way as fast as they can
            with Load(port, [batch], answered_or_refused, path="/v1/batch", rate=50.0) as load:
                overload = _elsewhere(_ask_many, port, seconds)
            lost += load.wrong
            for what, kinds_of in (("answered", (200,)), ("refused", (429, 503))):
                number = sum(one.status in kinds_of for one in load.taken)
                notes.append(f"at 400 clients {what} P99 {load.p99_ms(statuses=kinds_of):.0f} ms of {number}")
            notes.append(f"/health then {load.slowest_probe_ms():.0f} ms")
            lost += Counter({f"overload: status {s}": n for s, n in overload.items() if s not in (200, 429, 503)})
    tried = f"3 floods of 300 connections, {seconds:.0f} s each; {sum(overload.values())} requests at once"
    return tried, said(+lost), "; ".join(notes)


def _elsewhere(what: Callable[..., T], *arguments: Any) -> T:
    """What a call in another process gives."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(what, *arguments).result()


def _hold_many(port: int, first: bytes, drip: bytes, seconds: float, count: int = 300) -> int:
    """Holds `count` connections, opened again where the server ends them; gives how many were opened in all."""
    end, opened = time.monotonic() + seconds, 0

    async def hold() -> None:
        nonlocal opened
        while time.monotonic() < end:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.9", 0))
                opened += 1
                writer.write(first)
                while time.monotonic() < end and not reader.at_eof():
                    writer.write(drip)
                    with suppress(TimeoutError):
                        await asyncio.wait_for(reader.read(1000), 0.2)
                writer.close()

    async def all_of_them() -> None:
        await asyncio.gather(*(hold() for _ in range(count)))

    asyncio.run(all_of_them())
    return opened


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
