"""Microseconds of one recurrent decision, and of carrying its memory as a signed text.

    python benchmarks/lstm_decision.py --rounds 5

Two LSTM layers of 64 and a tanh layer of 128, random weights, one thread, each decision from the memory of the one
before. Signing is `pack` after a decision and `unpack` before the next: all that a client who carries its memory costs
the server beside a longer JSON text. Figures are medians over calls, in turn within each round; the spread is that of
the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from helpers.bundle import make_bundle, valid_states
from himari_rl.policy.runtime import Policy, load_policy
from himari_rl.serving.memory import pack, unpack

KEY = b"k" * 32
BARS = {"one recurrent decision": 60.0, "signed memory, in and out": 60.0}


def decisions(policy: Policy, states: list[list[float]]) -> list[float]:
    """Seconds of each."""
    memory, taken = None, []
    for state in states:
        started = time.perf_counter()
        memory = policy.step(state, memory).memory
        taken.append(time.perf_counter() - started)
    return taken


def signatures(policy: Policy, states: list[list[float]]) -> list[float]:
    """Seconds of signing the memory of each decision and of reading it back."""
    memory, digest, taken = None, policy.manifest.manifest_sha256, []
    for state in states:
        memory = policy.step(state, memory).memory
        started = time.perf_counter()
        memory = unpack(pack(memory, digest, KEY), digest, KEY, policy.memory_size)
        taken.append(time.perf_counter() - started)
    return taken


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=4000)
    args = parser.parse_args(argv)
    states = valid_states(args.calls, seed=1).tolist()
    with tempfile.TemporaryDirectory() as folder:
        policies = {kind: load_policy(make_bundle(Path(folder), kind, name=kind)) for kind in ("base", "lstm")}
    timed: dict[str, Callable[[], list[float]]] = {
        "one base decision": lambda: decisions(policies["base"], states),
        "one recurrent decision": lambda: decisions(policies["lstm"], states),
        "signed memory, in and out": lambda: signatures(policies["lstm"], states),
    }
    found: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(args.rounds + 1):
        for name, measure in timed.items():
            found[name].append(1e6 * median(measure()))
    print(
        f"{platform.processor() or platform.machine()}; memory of {policies['lstm'].memory_size} numbers; microseconds"
    )
    missed = False
    for name, rounds in found.items():
        figures = rounds[1:]  # the first warms up
        bar = BARS.get(name)
        asked = "" if bar is None else f"   asked for: under {bar:g}"
        print(f"{name:26s} {median(figures):6.1f}   ({min(figures):.1f} .. {max(figures):.1f}){asked}")
        missed |= bar is not None and median(figures) >= bar
    print(json.dumps({name: rounds[1:] for name, rounds in found.items()}))
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
