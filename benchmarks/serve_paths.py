"""What a decision costs by each way in, beside POST /predict on the same states in the same run, without a network.

    python benchmarks/serve_paths.py            half a minute: base, LSTM, multi

The processor time between a request's body and the answer's bytes (FastPath), so uvicorn is in none of the figures:
benchmarks/serve.py measures them on the wire. The three take turns in blocks of some milliseconds, and a ratio is
made of neighbouring blocks: a busy minute of the machine hits all of them. A figure is the median over blocks, its
spread the quartiles. The last line is JSON.

    predict           {"state"}, which are the states that /v1/decide encodes below; for an LSTM also with its memory
    decide            the next bar of a session
    decide, history   a request without a session, with 200 earlier bars
    batch             256 of the states at once, per decision
    step              the policy alone, without a request: one decision
    one pass          the same for 256 states at once, per decision
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

HOUR_MS, START, BATCH, HISTORY = 3_600_000, 946_684_800_000, 256, 200
SHAPES = {"base": (128, 128), "lstm": (128,), "multi": (128, 128)}  # as the README's examples; the LSTM: 2 x 64


def decide_body(symbols: tuple[str, ...], hour: int, session: str = "", history: int = 0) -> bytes:
    """A request about the bar of an hour, whose prices swing by a few per mille an hour."""

    def close(asset: int, at: int) -> float:
        return 100.0 * (asset + 1) + (at * (7 + 4 * asset)) % 11 / 20.0

    def asset(number: int) -> dict[str, Any]:
        sent: dict[str, Any] = {
            "bar": {"timestamp": START + hour * HOUR_MS, "close": close(number, hour)},
            "signal": {"action": "BUY", "confidence": 0.82, "tier": "T2", "cascade_risk": 0.05},
            "account": {"exposure": 0.1, "unrealised_pnl": 0.01, "win_rate": 0.6},
        }
        if history:
            past = range(hour - history, hour)
            sent["history"] = [[START + at * HOUR_MS, close(number, at)] for at in past]
        return sent

    if len(symbols) == 1:
        body = {"symbol": symbols[0]} | asset(0)
    else:
        body = {"assets": {symbol: asset(number) for number, symbol in enumerate(symbols)}}
    return json.dumps(body | ({"session_id": session} if session else {})).encode()


def timed(ask: Callable[[], object], count: int) -> float:
    """Microseconds of processor time for one of `count`."""
    begun = time.process_time_ns()
    for _ in range(count):
        ask()
    return (time.process_time_ns() - begun) / count / 1e3


def costs(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Microseconds by way in, a figure a round; the rounds are those of all ways."""
    from himari_rl.serving.http.app import create_app

    app = create_app(folder)
    app.state.service.load()
    app.state.service.clock = lambda: 4e9  # any bar of this century has closed
    fast, slot = app.fast_path, app.state.service.slot

    def answered(given: bytes | None) -> bytes:
        assert given is not None, "a request did not take the short way"
        return given

    hours = iter(range(HISTORY, 10**6))
    first = answered(fast._decide(decide_body(slot.symbols, next(hours), "own", HISTORY), "here"))
    alone = decide_body(slot.symbols, HISTORY, history=HISTORY)
    states = [json.loads(first)["state"]]
    for _ in range(BATCH - 1):
        encoded = answered(fast._decide(decide_body(slot.symbols, next(hours), "own"), "here"))
        states.append(json.loads(encoded)["state"])
    asked = cycle([json.dumps({"state": state}).encode() for state in states])
    batch, plain, rows = json.dumps({"instances": states}).encode(), cycle(states), np.array(states, np.float32)
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "predict": (lambda: answered(fast.answer(next(asked))), 200),
        "decide": (lambda: answered(fast._decide(next(bars), "here")), 100),
        "decide, history": (lambda: answered(fast._decide(alone, "here")), 10),
        "batch": (lambda: answered(fast._batch(batch, "here")), 4),
        "step": (lambda: slot.policy.step(next(plain)), 200),
        "one pass": (lambda: slot.policy.columns(rows), 4),
    }
    if slot.recurrent:
        memory = json.loads(answered(fast.answer(next(asked))))["memory"]
        carried = cycle([json.dumps({"state": state, "memory": memory}).encode() for state in states])
        ways["predict, memory"] = (lambda: answered(fast.answer(next(carried))), 200)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        bars: Iterator[bytes] = iter([decide_body(slot.symbols, next(hours), "own") for _ in range(100)])
        for name, (ask, count) in ways.items():
            found[name].append(timed(ask, count))
    for together in ("batch", "one pass"):
        found[together] = [cost / BATCH for cost in found[together]]
    return found


def rows(rounds: int = 60) -> dict[str, dict[str, dict[str, float]]]:
    """By kind and way: the median of microseconds, and median and quartiles of its ratio to /predict."""
    from helpers.bundle import make_bundle

    place, table = Path(tempfile.mkdtemp()), {}
    for kind, hidden in SHAPES.items():
        found = costs(make_bundle(place, kind, hidden=hidden, name=kind), rounds)
        table[kind] = {}
        for name, own in found.items():
            beside = found["step" if name == "one pass" else "predict"]
            ratios = [one / other for one, other in zip(own, beside, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            table[kind][name] = {"us": statistics.median(own), "ratio": middle, "low": low, "high": high}
    return table


def shown(table: dict[str, dict[str, dict[str, float]]]) -> Iterator[str]:
    """The table as lines."""
    yield f"{'in process':<24}{'CPU us':>9}{'of /predict':>13}   quartiles; one pass: of a step"
    for kind, ways in table.items():
        for name, one in ways.items():
            ratio = f"{one['ratio']:>13.3f}   {one['low']:.3f}-{one['high']:.3f}"
            yield f"{kind + ' ' + name:<24}{one['us']:>9.2f}{ratio}"


if __name__ == "__main__":
    measured = rows(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
    print("\n".join(shown(measured)))
    print(json.dumps(measured))
