"""A day through runner, HTTP server and journal, a year in the process: every signal decided, replay, equity, speed.

    python benchmarks/runner_day.py --data BTC-USDT_1h.parquet ETH-USDT_1h.parquet SOL-USDT_1h.parquet

Everything is done by the commands that a user has (`himari train`, `serve`, `run`, `journal verify`, `replay`), each in
a process of its own, on the newest hours of each file; signals are the reference signals. Equity is held against the
backtest, which asks the policy one state at a time as the runner does. Exit code 1 where a signal has no decision, an
answer came from a fallback, a replay has a difference, or equity differs by more than 1e-9.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic, perf_counter, sleep

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from helpers.stream import lines
from himari_rl.data.sources import load_bars
from himari_rl.evaluation.backtest import backtest, stage
from himari_rl.features.signals import with_signals
from himari_rl.policy.protocol import OneByOne
from himari_rl.policy.runtime import load_policy
from himari_rl.runner.config import PortfolioConfig
from himari_rl.schema import Bars

DAY, YEAR, WARM = 24, 8_760, 240
HIMARI = (sys.executable, "-m", "himari_rl")
NO_HALTS = ("daily_loss", "drawdown", "volatility", "stale_bars")
LIMIT = 1e-9
START_S = 120.0


def himari(*words: str, refused: bool = False) -> subprocess.CompletedProcess[str]:
    """One command; exit code 1 is a finding where `refused` says so."""
    done = subprocess.run([*HIMARI, *words], capture_output=True, text=True, check=False)
    if done.returncode not in ((0, 1) if refused else (0,)):
        raise SystemExit(f"himari {' '.join(words)}: {done.returncode}\n{done.stderr[-2000:]}")
    return done


@contextmanager
def served(bundle: Path) -> Iterator[str]:
    """The address of `himari serve` on a bundle, once it is ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [*HIMARI, "serve", str(bundle), "--port", str(port)]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            url, end = f"http://127.0.0.1:{port}", monotonic() + START_S
            while not _ready(url):
                if process.poll() is not None or monotonic() > end:
                    raise SystemExit(f"himari serve {bundle} is not ready: {process.poll()}")
                sleep(0.1)
            yield url
        finally:
            process.terminate()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready").status_code == 200
    except httpx.TransportError:
        return False


def run(folder: Path, name: str, bars: Bars, rows: range, *policy: str) -> tuple[list[dict[str, object]], str, Path]:
    """`himari run` on some rows: what it told, its own summary, its journal."""
    stream, journal = (folder / f"{name}.{end}" for end in ("jsonl", "sqlite"))
    history = folder / f"{bars.symbol}_1h.csv"
    stream.write_text("\n".join(lines([bars], rows)) + "\n")
    bars[rows.start - WARM : rows.start].to_frame().drop(columns="synthetic", errors="ignore").to_csv(history)
    free = [word for rule in NO_HALTS for word in ("--set", f"halt.{rule}=inf")] + ["--set", "halt.drift_bars=0"]
    words = ["run", *policy, "--signals", str(stream), "--journal", str(journal), "--history", str(history)]
    done = himari(*words, "--clock", "bar", *free)
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr.splitlines()[-1], journal


def checked(
    name: str, told: Sequence[dict[str, object]], rows: range, source: str, journal: Path, bundle: Path
) -> bool:
    """Prints what became of a stream; whether it is as it must be."""
    himari("journal", "verify", str(journal))
    [found] = json.loads(himari("replay", str(journal), "--bundle", str(bundle), "--json", refused=True).stdout)
    differences, answered = len(found["differences"]), sum(each["source"] == source for each in told)
    once = len({each["bar"] for each in told}) == len(told) == len(rows)
    print(f"  {name}: {len(rows)} signals, {len(told)} decisions, {answered} by {source}, {differences} differences")
    return once and answered == len(rows) and not differences


def gap(bars: Bars, rows: range, bundle: Path, told: Sequence[dict[str, object]]) -> float:
    """The largest |log(equity of the runner / equity of the backtest)|."""
    policy, start = load_policy(bundle), PortfolioConfig().equity_usd
    part = bars[rows.start - WARM : rows.stop]
    on, ledger = stage(part, policy.manifest.ledger, WARM), policy.manifest.ledger
    whole = backtest({"policy": OneByOne(policy)}, on, ledger, rng=np.random.default_rng(0)).run("policy")
    equity = np.log(np.array([float(str(each["equity_usd"])) for each in told])[1:-1] / start)
    return float(np.abs(equity - whole.marked_log_equity).max())


def main(argv: Sequence[str] | None = None) -> int:
    """Day and year of each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--year", type=int, default=YEAR, help="bars in the process")
    given = parser.parse_args(argv)
    right = True
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for file in given.data:
            bars = load_bars(file)
            bars = replace(with_signals(bars), symbol=bars.symbol)
            print(f"{bars.symbol}, {len(bars):,} bars")
            out = folder / bars.symbol
            himari("train", "base", "--data", file, "--out", str(out), "--seeds", "1")
            bundle = out / "bundle"
            rows = range(len(bars) - DAY, len(bars))
            with served(bundle) as url:
                told, said, journal = run(
                    folder, f"{bars.symbol}_day", bars, rows, "--url", url, "--symbols", bars.symbol
                )
            right &= checked("a day over HTTP", told, rows, "gcp_api", journal, bundle)
            print(f"  {said}")
            rows, began = range(len(bars) - given.year, len(bars)), perf_counter()
            told, said, journal = run(folder, f"{bars.symbol}_year", bars, rows, "--bundle", str(bundle))
            right &= checked("a year in the process", told, rows, "local_model", journal, bundle)
            differs = gap(bars, rows, bundle, told)
            right &= differs <= LIMIT
            print(f"  {said}\n  equity against the backtest {differs:.2g}; {perf_counter() - began:.0f} s in all")
    print(json.dumps({"right": right}))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
