"""The server against the floor of the machine, in one run, interleaved.

    python benchmarks/serve.py                 about four minutes on two cores
    python benchmarks/serve.py --quick         a smoke run: the figures are noise
    python benchmarks/serve.py --record        appends a dated row to benchmarks/RESULTS.md
    python benchmarks/serve.py --litserve venv/bin/python    LitServe too, from an environment that has it

What bounds the figures: one server process on one core, the load generator (wrk) alone on another. The floor is an ASGI
app of three lines under the same uvicorn, uvloop and httptools: no ASGI app can beat it. Ours answers most requests
before they become one (serving/http/protocol.py); `base asgi` is the same without that, `base` the server as started.
All servers live through the whole run and take turns, so that a busy minute of the machine hits all of them; a figure
is the median over rounds, its spread the range. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from serve_paths import BATCH, HISTORY, decide_body, rows, shown  # noqa: E402

SERVER_CORE, CLIENT_CORE = 0, (os.cpu_count() or 2) - 1
CONCURRENCY = (1, 8, 64)
OPEN_LOOP_RATE = 2_000  # requests/s, Poisson arrivals; a latency counts from when the request was due
LUA = """
done = function(summary, latency, requests)
  io.write(string.format('JSON{"rps":%f,"p50":%f,"p99":%f,"errors":%d}\\n', summary.requests / summary.duration * 1e6,
    latency:percentile(50), latency:percentile(99), summary.errors.status + summary.errors.connect + summary.errors.read
    + summary.errors.write + summary.errors.timeout))
end
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
"""


def pin(core: int) -> Any:
    return lambda: os.sched_setaffinity(0, {core})


@contextmanager
def server(name: str, *arguments: str, command: list[str] | None = None, **env: str) -> Iterator[tuple[int, Any]]:
    """One server process on its core; gives its port and the process."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    line = [part.replace("{port}", str(port)) for part in command or []] or [
        sys.executable,
        str(ROOT / "benchmarks" / "serve_rivals.py"),
        name,
        str(port),
        *arguments,
    ]
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    environment = os.environ | threads | {"PORT": str(port), "HOST": "127.0.0.1"} | env
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # the image that serves has its byte code: cloud_run/Dockerfile
    process = subprocess.Popen(line, env=environment, preexec_fn=pin(SERVER_CORE), stderr=subprocess.PIPE)
    try:
        yield port, process
    finally:
        process.terminate()
        process.wait(20)


def ask(port: int, body: bytes, path: str = "/predict") -> dict[str, Any]:
    """One POST; the document that answers."""
    from http.client import HTTPConnection

    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST" if body else "GET", path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    document = json.loads(answer.read())
    connection.close()
    assert answer.status == 200, document
    return document


def first_answer(port: int, process: Any, body: bytes) -> float:
    """Seconds from now until the server answers its first request."""
    start = time.perf_counter()
    while True:
        try:
            ask(port, body)
        except (ConnectionRefusedError, AssertionError):
            if process.poll() is not None or time.perf_counter() - start > 60:
                raise
            time.sleep(0.002)
        else:
            return time.perf_counter() - start


def wrk(
    port: int, body: bytes, process: Any, path: str, connections: int, seconds: float, script: Path
) -> dict[str, float]:
    """Closed loop: requests/s, latencies in microseconds, and the server's processor time a request in microseconds.

    The last one hardly moves when somebody else uses the machine.
    """
    import psutil

    before = psutil.Process(process.pid).cpu_times()
    script.write_text(LUA + f"wrk.body = {json.dumps(body.decode())}\n")
    line = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "-s",
        str(script),
        f"http://127.0.0.1:{port}{path}",
    ]
    done = subprocess.run(line, capture_output=True, text=True, check=True, preexec_fn=pin(CLIENT_CORE))
    found: dict[str, float] = json.loads(done.stdout.partition("JSON")[2])
    assert found["errors"] == 0, done.stdout
    after = psutil.Process(process.pid).cpu_times()
    spent = after.user + after.system - before.user - before.system
    return found | {"cpu": spent / (found["rps"] * max(1, round(seconds))) * 1e6}


async def open_loop(port: int, body: bytes, seconds: float, rate: float) -> dict[str, float]:
    """Latencies in microseconds when requests come on their own time, whatever the server does."""
    head = f"POST /predict HTTP/1.1\r\nhost: b\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    message, rng, taken = head.encode() + body, random.Random(0), []
    idle: asyncio.Queue[Any] = asyncio.Queue()
    for _ in range(64):
        idle.put_nowait(await asyncio.open_connection("127.0.0.1", port))

    async def one(due: float) -> None:
        reader, writer = connection = await idle.get()
        writer.write(message)
        answer = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(answer.lower().partition(b"content-length: ")[2].split()[0]))
        taken.append(time.perf_counter() - due)
        idle.put_nowait(connection)

    due = start = time.perf_counter()
    tasks = set()
    while due < start + seconds:
        due += rng.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.add(task := asyncio.create_task(one(due)))
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    while not idle.empty():
        idle.get_nowait()[1].close()
    cuts = statistics.quantiles(taken, n=100)
    return {"p50": cuts[49] * 1e6, "p99": cuts[98] * 1e6, "rps": len(taken) / seconds, "cpu": math.nan}


def application_cost(bundle: Path, body: bytes) -> dict[str, float]:
    """Python calls and microseconds between uvicorn's hand-over and the last byte, in this process."""
    from himari_rl.serving.http.app import create_app

    app = create_app(bundle)
    app.state.service.load()
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [], "query_string": b""}
    calls = -3  # receive once and send twice are the harness

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(_: Any) -> None: ...

    def count(_: Any, event: str, __: Any) -> None:
        nonlocal calls
        calls += event == "call"

    async def run() -> float:
        best = 1.0
        for _ in range(20):
            start = time.perf_counter()
            for _ in range(500):
                await app(scope, receive, send)
            best = min(best, (time.perf_counter() - start) / 500)
        sys.setprofile(count)
        await app(scope, receive, send)
        sys.setprofile(None)
        return best

    return {"microseconds": asyncio.run(run()) * 1e6, "python_calls": calls}


def resident_with_bucket_client(folders: dict[str, Path], bodies: dict[str, bytes], place: Path) -> dict[str, float]:
    """Megabytes of one server with google-cloud-storage loaded, serving the three policies in turn by its alias."""
    import psutil

    from himari_rl.policy.alias import point

    alias, found = str(place / "champion.json"), {}
    point(alias, str(folders["base"]))
    with server("ours-gcs", alias) as (port, process):
        for kind in ("base", "lstm", "multi"):
            point(alias, str(folders[kind]))
            first_answer(port, process, bodies["base"]) if kind == "base" else time.sleep(0.5)
            version = ""
            while not version.startswith(kind):
                version = ask(port, bodies[kind])["model_version"] if _serves(port, bodies[kind]) else ""
            for _ in range(500):
                ask(port, bodies[kind])
            found[kind] = psutil.Process(process.pid).memory_info().rss / 1e6
    return found


def _serves(port: int, body: bytes) -> bool:
    try:
        ask(port, body)
    except AssertionError:
        time.sleep(0.05)
        return False
    return True


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything, as plain numbers: medians, with the range over rounds."""
    from helpers.bundle import make_bundle
    from himari_rl.serving.slot import ordinary_state

    if not shutil.which("wrk"):
        raise SystemExit("benchmarks/serve.py: wrk is missing; apt install wrk")
    rounds, seconds = (1, 1.0) if arguments.quick else (arguments.rounds, arguments.seconds)
    place = Path(tempfile.mkdtemp())
    shapes = {"base": (128, 128), "lstm": (128,), "multi": (128, 128)}  # as the README's examples; the LSTM: 2 x 64
    folders = {kind: make_bundle(place, kind, hidden=hidden, name=kind) for kind, hidden in shapes.items()}
    bodies = {kind: json.dumps({"state": ordinary_state(1 + 2 * (kind == "multi"))}).encode() for kind in folders}
    rivals = ["floor", "noop", "torch", *(["litserve"] if arguments.litserve else [])]
    runs: dict[str, list[dict[str, float]]] = defaultdict(list)
    with ExitStack() as stack:
        ports: dict[str, tuple[int, bytes, Any, str]] = {}
        for name in (*rivals, *folders, "base asgi"):
            given = ("ours", str(folders[name])) if name in folders else (name,)
            command = None
            if name == "base asgi":
                given = ("ours-asgi", str(folders["base"]))
            elif name == "litserve":
                command = [arguments.litserve, str(ROOT / "benchmarks" / "litserve_rival.py"), "{port}"]
            port, process = stack.enter_context(server(*given, command=command))
            body = bodies.get(name, bodies["base"])
            first_answer(port, process, body)
            ports[name] = (port, body, process, "/predict")
        lstm, body, process, _ = ports["lstm"]
        carried = json.dumps({"state": ordinary_state(1), "memory": ask(lstm, body)["memory"]}).encode()
        ports["lstm with memory"] = (lstm, carried, process, "/predict")
        for kind, assets in (("base", 1), ("multi", 3)):  # the same bar of a session again, and 256 states
            port, _, process, _ = ports[kind]
            symbols = tuple(ask(port, b"", "/ready")["symbols"])
            ask(port, decide_body(symbols, HISTORY, "own", HISTORY), "/v1/decide")
            ports[f"{kind} decide"] = (port, decide_body(symbols, HISTORY, "own"), process, "/v1/decide")
            batch = json.dumps({"instances": [ordinary_state(assets)] * BATCH}).encode()
            ports[f"{kind} batch"] = (port, batch, process, "/v1/batch")
        for turn in range(rounds):
            names = list(ports)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                for connections in CONCURRENCY:
                    runs[f"{name} c{connections}"].append(wrk(*ports[name], connections, seconds, place / "wrk.lua"))
                if name in ("floor", "torch", "litserve", "base"):
                    runs[f"{name} open"].append(asyncio.run(open_loop(*ports[name][:2], seconds, OPEN_LOOP_RATE)))
    cold: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        api = [sys.executable, str(ROOT / "cloud_run" / "api_server.py")]
        for name, command in (("base", api), ("torch", None)):
            with server(name, command=command, MODEL_PATH=str(folders["base"])) as (port, process):
                cold[name].append(first_answer(port, process, bodies["base"]))
    loads = {
        name: {key: statistics.median(run[key] for run in found) for key in ("rps", "p50", "p99", "cpu")}
        | {"range": [min(run["rps"] for run in found), max(run["rps"] for run in found)]}
        for name, found in runs.items()
    }
    return {
        "loads": loads,
        "cold_start_ms": {name: statistics.median(found) * 1e3 for name, found in cold.items()},
        "application": {kind: application_cost(folders[kind], bodies[kind]) for kind in folders},
        "resident_mb": resident_with_bucket_client(folders, bodies, place),
        "in_process": rows(10 if arguments.quick else 60),
        "rounds": rounds,
        "seconds": seconds,
    }


def bars(found: dict[str, Any]) -> list[tuple[str, float, str, float]]:
    """What is promised: name, value, '>=' or '<=', bar."""
    loads, cold, within = found["loads"], found["cold_start_ms"], found["in_process"]

    def ratio(one: str, other: str, key: str) -> float:
        return float(loads[one][key] / loads[other][key])

    return [
        ("requests/s, c 64, of the floor", ratio("base c64", "floor c64", "rps"), ">=", 0.50),
        ("the same by the servers' processor time", ratio("floor c64", "base c64", "cpu"), ">=", 0.50),
        ("the same, as an ASGI app alone", ratio("base asgi c64", "floor c64", "rps"), ">=", 0.50),
        ("P50, c 1, of the floor", ratio("base c1", "floor c1", "p50"), "<=", 1.6),
        ("P99, c 64, of the floor", ratio("base c64", "floor c64", "p99"), "<=", 2.0),
        ("application, us a request", found["application"]["base"]["microseconds"], "<=", 20),
        ("application, Python calls", found["application"]["base"]["python_calls"], "<=", 25),
        ("requests/s, c 64, of torch in FastAPI", ratio("base c64", "torch c64", "rps"), ">=", 18),
        ("P50, c 1, torch in FastAPI of ours", ratio("torch c1", "base c1", "p50"), ">=", 3.5),
        ("LSTM with signed memory, requests/s of base", ratio("lstm with memory c64", "base c64", "rps"), ">=", 0.6),
        ("cold start, ms", cold["base"], "<=", 700),
        ("cold start, of torch's", cold["base"] / cold["torch"], "<=", 0.35),
        *((f"/v1/decide of /predict, {kind}, in process", within[kind]["decide"]["ratio"], "<=", 3) for kind in within),
        *((f"a step of one in one pass, {kind}", 1 / within[kind]["one pass"]["ratio"], ">=", 13) for kind in within),
        *((f"/predict of one in /v1/batch, {kind}", 1 / within[kind]["batch"]["ratio"], ">=", 13) for kind in within),
        ("/v1/decide of /predict, base, CPU on the wire", ratio("base decide c64", "base c64", "cpu"), "<=", 3),
        ("the same for multi", ratio("multi decide c64", "multi c64", "cpu"), "<=", 3),
        (
            "/predict of one in /v1/batch, base, on the wire",
            BATCH * ratio("base c64", "base batch c64", "cpu"),
            ">=",
            13,
        ),
        ("the same for multi", BATCH * ratio("multi c64", "multi batch c64", "cpu"), ">=", 13),
        ("resident with the bucket client, MB", max(found["resident_mb"].values()), "<=", 100),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load, for each server, concurrency and round")
    parser.add_argument("--quick", action="store_true", help="one short round: does it run at all?")
    parser.add_argument("--litserve", default="", help="the Python of an environment that has LitServe")
    parser.add_argument("--record", action="store_true", help="append a row to benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    found = measure(arguments)
    print(f"{'server':<22}{'c':>5}{'requests/s':>12}{'P50 us':>9}{'P99 us':>9}{'CPU us':>8}   range of requests/s")
    for name, load in found["loads"].items():
        who, _, how = name.rpartition(" ")
        spread = "{:,.0f}-{:,.0f}".format(*load["range"])
        numbers = f"{load['rps']:>12,.0f}{load['p50']:>9.0f}{load['p99']:>9.0f}{load['cpu']:>8.1f}"
        print(f"{who:<22}{how:>5}{numbers}   {spread}")
    print()
    for name, value, sign, bar in bars(found):
        good = value >= bar if sign == ">=" else value <= bar
        print(f"{name:<46}{value:>9.2f}  {sign} {bar:<6g}{'' if good else '  missed'}")
    print("\n" + "\n".join(shown(found["in_process"])))
    machine = f"{os.cpu_count()} cores, Python {sys.version.split()[0]}"
    if arguments.record:
        row = "; ".join(f"{name} {value:.2f} ({sign} {bar:g})" for name, value, sign, bar in bars(found))
        with (ROOT / "benchmarks" / "RESULTS.md").open("a") as file:
            file.write(f"- {date.today()} `python benchmarks/serve.py` ({machine}): {row}\n")
    for load in found["loads"].values():
        load["cpu"] = load["cpu"] if load["cpu"] == load["cpu"] else None  # NaN is not JSON
    print(json.dumps({"bars": {name: value for name, value, _, _ in bars(found)}, "machine": machine} | found))


if __name__ == "__main__":
    main()
