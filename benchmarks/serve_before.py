"""Today's server beside the server of an earlier commit, in turns: is any ratio worse than before?

    python benchmarks/serve_before.py 5e29999                three minutes on two cores
    python benchmarks/serve_before.py 5e29999 --rounds 1     a smoke run: the figures are noise
    python benchmarks/serve_before.py 5e29999 --record       appends a dated row to benchmarks/RESULTS.md

The earlier tree is unpacked from git beside this one and starts its own server on a bundle that its own helper made:
same networks, same states. All servers live through the whole run and take turns (as benchmarks/serve.py says), each
round asks old and new next to each other, and a figure is the median over rounds of new / old with its range: what
slows the machine slows both. Processor time a request is the steadier one of the figures on the wire; without a network
`least` is the ratio of the least times of all rounds, which a neighbour moves least.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any

from serve import ROOT, SERVER_CORE, ask, first_answer, pin, server, wrk

SHAPES = {"base": (128, 128), "lstm": (128,), "multi": (128, 128)}  # as benchmarks/serve.py
LOADS = (("base", 64), ("base", 1), ("lstm", 64), ("multi", 64))
_BUNDLES = """
import json, sys
from pathlib import Path
try:
    from helpers.bundle import make_bundle
except ImportError:  # before 2026-11-27
    from bundle_helpers import make_bundle
place, shapes = Path(sys.argv[1]), json.loads(sys.argv[2])
for kind, hidden in shapes.items():
    make_bundle(place, kind, hidden=tuple(hidden), name=kind)
"""
_PROTOCOL = """
import asyncio, json, sys, time
from types import SimpleNamespace
from uvicorn.server import ServerState
try:
    from himari_rl.serving.http.app import create_app
    from himari_rl.serving.http.protocol import PredictProtocol
    from himari_rl.serving.http.run import make_server
except ImportError:
    from himari_rl.serving.app import create_app
    from himari_rl.serving.protocol import PredictProtocol
    from himari_rl.serving.run import make_server
from himari_rl.serving.settings import ServeSettings

folder, body = sys.argv[1], sys.argv[2].encode()
message = b"POST /predict HTTP/1.1\\r\\nHost: t\\r\\ncontent-type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n"
message = message % len(body) + body

def least(ask):
    found = []
    for _ in range(300):
        begun = time.perf_counter()
        for _ in range(64):
            ask()
        found.append((time.perf_counter() - begun) / 64)
    return min(found) * 1e6

async def run():
    app = create_app(folder, ServeSettings())
    app.state.service.load()
    config, state, path = make_server(app).config, ServerState(), app.fast_path
    config.load()
    state.default_headers = [(b"server", b"t")]
    connection = PredictProtocol(config, state, {})
    silent = {name: lambda *_: None for name in ("write", "get_extra_info", "is_closing", "close")}
    connection.connection_made(SimpleNamespace(**silent))
    answer = least(lambda: path.answer(body))
    known = path.answer(body)
    if hasattr(path, "by_url"):
        path.by_url[b"/predict"] = lambda *_: known
    else:
        path.answer = lambda *_: known
    print(json.dumps({"answer": answer, "protocol": least(lambda: connection.data_received(message))}))

asyncio.run(run())
"""


class Tree:
    """One state of the sources, with the bundles it made."""

    def __init__(self, root: Path, place: Path) -> None:
        place.mkdir()
        self.root, self.place = root, place
        paths = (root / "src", root / "tests", root / "benchmarks")
        self.environment = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1"}
        self.python(_BUNDLES, str(place), json.dumps(SHAPES))

    def python(self, program: str, *arguments: str) -> str:
        """Runs a program with this tree's modules, on the core of the servers; what it printed."""
        line = [sys.executable, "-c", program, *arguments]
        done = subprocess.run(
            line, env=os.environ | self.environment, capture_output=True, text=True, preexec_fn=pin(SERVER_CORE)
        )
        if done.returncode:
            raise SystemExit(f"benchmarks/serve_before.py: {self.root}: {done.stderr.strip().splitlines()[-1]}")
        return done.stdout

    def server(self, kind: str) -> Any:
        """As `serve.server`, of this tree."""
        line = [sys.executable, str(self.root / "benchmarks" / "serve_rivals.py"), "ours", "{port}"]
        return server("ours", command=[*line, str(self.place / kind)], **self.environment)

    def in_process(self, kind: str, body: bytes) -> dict[str, float]:
        """Microseconds of a request without a network, the least of 300: its answer, and the protocol around it."""
        found: dict[str, float] = json.loads(self.python(_PROTOCOL, str(self.place / kind), body.decode()))
        return found


def unpack(commit: str, place: Path) -> Path:
    """The sources of a commit.

    Raises:
        SystemExit: there is no such commit here.
    """
    line = ["git", "-C", str(ROOT), "archive", commit]
    done = subprocess.run(line, capture_output=True)
    if done.returncode:
        raise SystemExit(f"benchmarks/serve_before.py: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as files:
        files.extractall(place, filter="data")
    return place


def measure(commit: str, rounds: int, seconds: float) -> dict[str, list[tuple[float, float]]]:
    """By figure: (before, now) of each round."""
    from himari_rl.serving.slot import ordinary_state

    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = Path(folder)
        trees = [Tree(unpack(commit, place / "sources"), place / "before"), Tree(ROOT, place / "now")]
        states = {kind: ordinary_state(1 + 2 * (kind == "multi")) for kind in SHAPES}
        running: dict[str, list[tuple[int, bytes, Any]]] = defaultdict(list)
        for kind, state in states.items():
            for tree in trees:
                port, process = stack.enter_context(tree.server(kind))
                body = json.dumps({"state": state}).encode()
                first_answer(port, process, body)
                if kind == "lstm":
                    body = json.dumps({"state": state, "memory": ask(port, body)["memory"]}).encode()
                running[kind].append((port, body, process))
        for turn in range(rounds):
            for kind, connections in LOADS:
                pair = [(0, {}), (1, {})]
                for which, figures in pair[:: 1 if turn % 2 else -1]:
                    port, body, process = running[kind][which]
                    script = place / "wrk.lua"
                    figures.update(wrk(port, body, process, "/predict", connections, seconds, script))
                before, now = pair[0][1], pair[1][1]
                for name, unit in (("cpu", "CPU us"), ("p50", "P50 us"), ("p99", "P99 us")):
                    found[f"{kind}, c {connections}, {unit}"].append((before[name], now[name]))
            for kind in SHAPES:
                body = json.dumps({"state": states[kind]}).encode()
                order = trees[:: 1 if turn % 2 else -1]
                costs = {tree.place.name: tree.in_process(kind, body) for tree in order}
                for part in ("answer", "protocol"):
                    found[f"{kind}, {part}, us"].append((costs["before"][part], costs["now"][part]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="whose server to compare with")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load, for each server, figure and round")
    parser.add_argument("--record", action="store_true", help="append a row to benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    found, said = measure(arguments.commit, arguments.rounds, arguments.seconds), []
    print(f"{'figure':<28}{'before':>9}{'now':>9}{'now / before':>14}   range of {arguments.rounds} rounds")
    for name, pairs in found.items():
        before, now = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratios = [new / old for old, new in pairs]
        ratio = f"{statistics.median(ratios):.2f}"
        if name.endswith(("answer, us", "protocol, us")):
            before, now = (min(side) for side in zip(*pairs, strict=True))
            ratio = f"least {now / before:.2f}"
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{name:<28}{before:>9.1f}{now:>9.1f}{ratio:>14}   {spread}")
        said.append(f"{name} {before:.1f} and {now:.1f}, {ratio} ({spread})")
    if arguments.record:
        load = f"load {os.getloadavg()[2]:.0f}"
        line = (
            f"- {date.today()} `python benchmarks/serve_before.py {arguments.commit}` ({os.cpu_count()} cores, {load})"
        )
        with (ROOT / "benchmarks" / "RESULTS.md").open("a") as file:
            file.write(f"{line}: {'; '.join(said)}\n")


if __name__ == "__main__":
    main()
