"""How often the gate promotes noise, and how often it finds an edge that is there.

python benchmarks/gate_noise.py --markets 200 --jobs 2

Each market is two years of hourly bars through the whole pipeline: walk-forward (6 months of training, 6 months of
test), two seeds, verdict, every statistical rule, every control. Noise is the driftless twin of synthetic bars; an edge
is the planted signal, as strong as experiments/power.py asks for 95 % power: more than any honest one, so that it
passes the rules of what is plausible only by a written acceptance, which noise never gets. Rules and controls only ever
refuse, so the slow ones run where the fast ones passed. The agent is the default one. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import as_completed
from pathlib import Path

import numpy as np

from himari_rl.data.leaks import suspected_leaks
from himari_rl.data.surrogates import driftless, planted
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.evaluation import metrics
from himari_rl.evaluation.backtest import BASE, POLICY, backtest, stage
from himari_rl.evaluation.baselines import ONE
from himari_rl.evaluation.control import own_deflated
from himari_rl.experiments.controls import judge_walk
from himari_rl.experiments.fold_files import TrainedFold
from himari_rl.experiments.fold_policies import fold_policies
from himari_rl.experiments.train_all import train_all
from himari_rl.experiments.walk_forward import REAL, Key, Settings, WalkForwardPlan, plan
from himari_rl.release.rules import GateRules
from himari_rl.release.statistical import statistical_lines
from himari_rl.training.fan_out import local_pool

ROWS = 2 * 365 * 24


def judged(market: str, seed: int, edge: float) -> tuple[str, bool, str]:
    """One market through the whole gate: (market, promoted, refused by)."""
    import torch

    torch.set_num_threads(1)
    made = synthetic_bars(ROWS, 10_000 + seed, edge=0.0)
    rng = np.random.default_rng([seed, 99])
    bars = planted(made, rng, edge) if market == "edge" else driftless(made, rng)
    settings = Settings(test="6mo", step="6mo", seeds=(0, 1))
    with tempfile.TemporaryDirectory() as folder:
        bare = plan(bars, settings, controls=False)
        trained = train_all(bare, Path(folder), None)
        refusal = quick_refusal(bare, trained)
        if refusal:
            return market, False, refusal
        work = plan(bars, settings)
        trained |= train_all(work, Path(folder), None)
        judgement, _ = judge_walk(work, trained, trials=1)
    leaks = [report.message for report in suspected_leaks(bars)]
    document = {"kind": "base", "leaks": leaks, "judgement": judgement.to_dict()}
    reason = "an edge that was planted" if market == "edge" else None  # as `himari gate --accept-implausible` takes it
    refused = [line.rule for line in statistical_lines(document, GateRules(), reason) if not line.passed]
    return market, not refused, ", ".join(refused)


def quick_refusal(work: WalkForwardPlan, trained: Mapping[Key, TrainedFold]) -> str:
    """A rule that needs no bootstrap and no control and that already refuses; empty if there is none."""
    rules = GateRules()
    ledger = trained[REAL, 0, 0].manifest.ledger
    on = stage(work.bars[REAL][: work.stop_row], ledger, work.start_row)
    policy = fold_policies(work, trained, REAL, work.settings.seeds)
    result = backtest({POLICY: policy}, on, ledger, variants=(BASE,), rng=np.random.default_rng(0))
    run, one = result.run(POLICY), result.run(ONE)
    if metrics.sharpe(run.log_growth, result.bars_per_year) <= rules.min_sharpe:
        return "Sharpe"
    if own_deflated(run.log_growth, 1) <= rules.min_deflated_sharpe:
        return "deflated Sharpe"
    if metrics.max_drawdown(run.marked_log_equity) >= rules.max_drawdown:
        return "drawdown"
    gain = [metrics.utility(r.log_growth, r.portfolio_return) for r in (run, one)]
    return "better than 1.0" if gain[0] <= gain[1] else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markets", type=int, default=200, help="noise markets")
    parser.add_argument("--edges", type=int, default=None, help="planted markets; a fifth of the noise ones by default")
    parser.add_argument("--edge", type=float, default=0.2, help="correlation of the planted signal with the next bar")
    parser.add_argument("--first", type=int, default=0, help="number of the first market, to run in pieces")
    parser.add_argument("--jobs", type=int, default=None)
    options = parser.parse_args()
    edges = max(1, options.markets // 5) if options.edges is None else options.edges
    first = options.first
    tasks = [("edge", first + i) for i in range(edges)] + [("noise", first + i) for i in range(options.markets)]
    started, found = time.perf_counter(), []
    with local_pool(options.jobs)() as pool:
        running = [pool.submit(judged, kind, i, options.edge) for kind, i in tasks]
        for done in as_completed(running):
            found.append(done.result())
            kind, promoted, why = found[-1]
            said = "PROMOTED" if promoted else f"refused by {why}"
            print(f"{len(found)}/{len(tasks)} {time.perf_counter() - started:.0f} s {kind}: {said}", flush=True)
    share = {
        kind: [sum(p for k, p, _ in found if k == kind), sum(k == kind for k, _, _ in found)]
        for kind in ("noise", "edge")
    }
    seconds = round(time.perf_counter() - started)
    print(json.dumps({"promoted": share, "edge": options.edge, "rows": ROWS, "seconds": seconds}))


if __name__ == "__main__":
    main()
