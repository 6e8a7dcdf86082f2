"""How long a decision takes, whatever the policy server does: P50, P99, P99.9 and causes, against failing servers.

    python benchmarks/runner_deadline.py --decisions 1000

Every way to fail has its own server on 127.0.0.1, in a process of its own as in production, and its own client,
deadline 150 ms, the breaker off so that every decision really asks. What bounds the number where a server stalls is the
deadline; elsewhere the loopback. The first row is a control: a bare sleep, which a busy machine prolongs as well. Exit
code 1 where a decision took more than 160 ms at P99.9, or had another cause than its server earned.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, sleep

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from helpers.faulty import faulty_server
from himari_rl.client import ClientConfig, PolicyCaller
from himari_rl.schema import HOUR_MS

STATE = [0.5, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0.1, 0.5, 0]
MODES = {
    "good": "",
    "stall": "timeout",
    "dribble": "timeout",
    "cut": "connection",
    "close": "connection",
    "500": "5xx",
    "garbage": "invalid_answer",
    "nan": "invalid_answer",
    '{"position_multiplier": 2.1}': "invalid_answer",
    '{"model_version": "unknown"}': "invalid_answer",
    '{"symbol": "DOGE"}': "invalid_answer",
}
NO_BREAKER = ClientConfig(timeout_ms=150.0, breaker_failures=1_000_000)
LIMIT_MS = 160.0


@contextmanager
def apart(mode: str) -> Iterator[str]:
    """The address of a server that fails so, in another process: in this one it would hold our interpreter's lock."""
    words = [sys.executable, __file__, "--serve", mode]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate()  # the end of its input ends it


def serve(mode: str) -> None:
    """The server's side of `apart`."""
    with faulty_server() as server:
        server.mode = mode
        print(server.url, flush=True)
        sys.stdin.read()


def asked(caller: PolicyCaller, decisions: int) -> tuple[list[float], Counter[str]]:
    """Milliseconds of each question, and the causes."""
    taken, causes = [], Counter[str]()
    for _ in range(decisions):
        began = perf_counter()
        answer = caller.ask(STATE)
        taken.append(1e3 * (perf_counter() - began))
        causes[answer.cause] += 1
    return taken, causes


def asleep(decisions: int) -> tuple[list[float], Counter[str]]:
    """The control: milliseconds of a sleep of 135, beside which the rows below are to be read."""
    taken = []
    for _ in range(decisions):
        began = perf_counter()
        sleep(0.135)
        taken.append(1e3 * (perf_counter() - began))
    return taken, Counter({"": decisions})


def row(name: str, cause: str, taken: Sequence[float], causes: Counter[str]) -> bool:
    """Prints a line; whether it is as it must be."""
    p50, p99, p999 = np.quantile(taken, [0.5, 0.99, 0.999])
    right = set(causes) == {cause} and p999 <= LIMIT_MS
    said = ", ".join(f"{count} {each or 'answered'}" for each, count in causes.items())
    print(f"{name[:34]:<34} {len(taken):>6} {p50:>8.2f} {p99:>8.2f} {p999:>8.2f} {max(taken):>8.2f}  {said}")
    return bool(right)


def main(argv: Sequence[str] | None = None) -> int:
    """All of them, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decisions", type=int, default=200, help="for each way to fail")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.serve is not None:
        serve(given.serve)
        return 0
    print(f"{'server':<34} {'asked':>6} {'P50 ms':>8} {'P99 ms':>8} {'P99.9':>8} {'most':>8}  causes")
    right, every = True, list[float]()
    row("(asleep for 135 ms, no client)", "", *asleep(given.decisions))  # what this machine does to a bare wait
    for mode, cause in MODES.items():
        with apart(mode) as url, PolicyCaller(url, ("BTC-USDT",), HOUR_MS, NO_BREAKER) as caller:
            caller.connect()
            taken, causes = asked(caller, given.decisions)
        right &= row(mode, cause, taken, causes)
        every += taken
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with PolicyCaller(url, ("BTC-USDT",), HOUR_MS, NO_BREAKER) as caller:
        taken, causes = asked(caller, given.decisions)
    right &= row("down", "refused", taken, causes)
    every += taken
    document = {"decisions": len(every), "p999_ms": float(np.quantile(every, 0.999)), "limit_ms": LIMIT_MS}
    print(json.dumps(document | {"right": right}))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
