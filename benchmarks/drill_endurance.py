"""Lines of the fault drill that end a server, or let it run: SIGTERM under load, a soak."""

from __future__ import annotations

import json
import signal
import statistics
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from drill_server import FULL_SOAK_S, FULL_TERMS, LEAST_SOAK_S, ORDERLY, Found, said, server_on, small_bundle, states
from helpers import PATIENCE_S

PACE_S = 0.05
MOST_EXIT_S = 8.0
"""Between two rounds of the soak: what grows with requests is seen, and the machine is free for something else."""


def terminated(size: float) -> Found:
    """SIGTERM while requests come: whatever was answered was answered whole, and the process ends within its grace."""
    count = max(3, round(FULL_TERMS * size))
    lost, slowest, asked = Counter[str](), 0.0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = small_bundle(Path(name), "m")
        idle = _terminate(folder, signal.SIGTERM, clients=0)[1]
        for _ in range(count):
            more, took, answered = _terminate(folder, signal.SIGTERM)
            lost += more
            slowest, asked = max(slowest, took), asked + answered
    # an idle server's exit is what this machine adds today: on one that is busy with something else, seconds
    lost["slow exits"] += slowest > MOST_EXIT_S + 3.0 * idle
    note = f"slowest exit {slowest:.2f} s (bar {MOST_EXIT_S:g}), of an idle server {idle:.2f} s"
    return f"{count} servers, {asked} requests", said(+lost), note


def _terminate(folder: Path, how: signal.Signals, clients: int = 4) -> tuple[Counter[str], float, int]:
    lost, stop, answered = Counter[str](), threading.Event(), 0
    head = b"POST /v1/batch HTTP/1.1\r\nhost: t\r\ncontent-length: %d\r\n\r\n%b"
    body = json.dumps({"instances": states(100)}).encode()

    def client(port: int) -> None:
        """An answer that has begun must come whole; what is sent to a closed connection was not accepted."""
        import socket

        nonlocal answered
        while not stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as wire:
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

    with server_on(folder) as (process, port):
        threads = [threading.Thread(target=client, args=(port,)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        begun = time.monotonic()
        process.send_signal(how)
        process.wait(PATIENCE_S)
        took = time.monotonic() - begun
        stop.set()
        for thread in threads:
            thread.join()
        lost[f"exit code {process.returncode}"] += process.returncode not in ORDERLY
    return +lost, took, answered


def terminated_without_grace() -> str:
    """The control: a server that is killed instead."""
    with tempfile.TemporaryDirectory() as name:
        return said(_terminate(small_bundle(Path(name), "m"), signal.SIGKILL)[0]).replace("nothing", "")


def soak(size: float) -> Found:
    """Requests, sessions, streams and swaps together; memory, descriptors and threads must not grow."""
    return _soak(FULL_SOAK_S * size if size > 0.05 else LEAST_SOAK_S)


def _soak(seconds: float, leak: bool = False) -> Found:
    import psutil

    from himari_rl.policy.alias import point
    from himari_rl.schema import HOUR_MS

    lost, samples = Counter[str](), []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        folders = [small_bundle(place, f"m{i}", "lstm", seed=i) for i in range(2)]
        alias = str(place / "champion.json")
        point(alias, str(folders[0]))
        bounds = {"HIMARI_MAX_SESSIONS": "1000000" if leak else "200", "HIMARI_MAX_SESSIONS_EACH": "1000000"}
        with server_on(Path(alias), HIMARI_RELOAD_S="0.2", **bounds) as (process, port):
            watched = psutil.Process(process.pid)
            state, hour = states(1)[0], int(time.time() * 1e3) // HOUR_MS * HOUR_MS
            start = time.monotonic()
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
                number = again = 0

                def sent(path: str, body: dict[str, Any]) -> bool:
                    """Answered with 200. A connection that had been idle may be closed while a request is under way
                    (RFC 9112, 9.5): it is sent again, once, and counted; a server that is gone refuses that too."""
                    nonlocal again
                    try:
                        return client.post(path, json=body).status_code == 200
                    except httpx.TransportError:
                        again += 1
                        return client.post(path, json=body).status_code == 200

                while (now := time.monotonic() - start) < seconds:
                    number += 1
                    name_of = f"s{number if leak else number % 100}"
                    body = {"state": state, "session_id": name_of, "timestamp": hour}
                    lost["refused"] += not sent("/predict", body)
                    lost["refused"] += not sent("/v1/batch", {"instances": [state] * 20})
                    lost["streams refused"] += not sent("/v1/decide", _raw_bars(name_of, hour))
                    if number % 200 == 0:
                        point(alias, str(folders[number // 200 % 2]))
                    time.sleep(PACE_S)
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
    note = f"memory slope {slope:.2f} MB/h (bar 1), {files[-1]} descriptors, {threads[-1]} threads"
    return tried, said(+lost), note + f", {again} connections closed while idle" * bool(again)


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
    found = _soak(60.0, leak=True)[1]
    return "" if found == "nothing" else found
