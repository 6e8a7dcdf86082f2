"""The gate's operating curve: how often it passes a strategy of a known Sharpe ratio.

python benchmarks/gate_curve.py --runs 200 --picture docs/gate_curve.svg

Four years of hourly returns, 15 % volatility a year, beside a multiplier 1.0 of the same volatility without an edge
that correlates with them by a half. `trials` strategies are tried, one of them with the true Sharpe ratio of the row
and the others worthless; the one that looks best is judged, for as many looks. So in the row of 0 noise is picked from
noise. Returns are normal, Student-t with 3 degrees of freedom, or an autoregression of .3.

Figures and bounds are those that the gate computes from curves (release/evidence.py), the rules its own
(release/statistical.py). What only a pipeline can show is granted: the controls, the share of the training advantage,
the spread, the one-liner; each can only refuse more. Exit code 1 where noise passes more than 5 % of a cell. The last
line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from himari_rl.evaluation import metrics
from himari_rl.evaluation.backtest import POLICY
from himari_rl.evaluation.baselines import ONE
from himari_rl.evaluation.control import own_deflated
from himari_rl.evaluation.one_liners import BEST
from himari_rl.release.evidence import Accounts, measured
from himari_rl.release.rules import GateRules
from himari_rl.release.statistical import statistical_lines
from himari_rl.schema import FloatArray

YEAR, YEARS, VOLATILITY = 8760.0, 4, 0.15
SHARPES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
TRIALS = (1, 10, 100)
RETURNS = ("normal", "Student-t(3)", "AR(.3)")
BAR = 0.05  # of a cell of noise, at most
MEMORY = 0.3
REPLICATIONS = 1000
COLOURS = {"normal": "#2563a6", "Student-t(3)": "#b4531f", "AR(.3)": "#1a7f4b"}


def paths(kind: str, count: int, rng: np.random.Generator, rows: int) -> FloatArray:
    """(count, rows) worthless returns of variance 1."""
    if kind == "Student-t(3)":  # normal over the root of a chi square: variance 1
        chi = rng.standard_gamma(1.5, (count, rows), dtype=np.float32) * 2.0
        return np.asarray(rng.standard_normal((count, rows), dtype=np.float32) / np.sqrt(chi))
    noise = rng.standard_normal((count, rows), dtype=np.float32)
    if kind == "AR(.3)":
        total = noise * np.float32(np.sqrt(1.0 - MEMORY**2))
        lag, weight = 1, np.float32(MEMORY)
        while weight > 1e-9:  # 1 / (1 - m L) = (1 + m L) (1 + m^2 L^2) (1 + m^4 L^4) ...
            total[:, lag:] += weight * total[:, :-lag].copy()
            lag, weight = 2 * lag, weight * weight
        return np.asarray(total)
    return noise


def best_of(kind: str, count: int, rng: np.random.Generator, rows: int) -> tuple[FloatArray, float]:
    """Of `count` worthless strategies the one that looks best, and its Sharpe ratio a bar."""
    best, top = np.zeros(rows), -np.inf
    for done in range(0, count, 25):
        tried = paths(kind, min(25, count - done), rng, rows)
        ratio = tried.mean(axis=1, dtype=float) / tried.std(axis=1, dtype=float)
        if ratio.max() > top:
            best, top = tried[int(ratio.argmax())].astype(float), float(ratio.max())
    return best, top


def strategies(kind: str, trials: int, seed: int, rows: int) -> Iterator[tuple[float, FloatArray, FloatArray]]:
    """(true Sharpe ratio, growth of the strategy picked, growth of multiplier 1.0) of one run."""
    rng = np.random.default_rng([seed, trials, RETURNS.index(kind)])
    market, skilled = (paths(kind, 1, rng, rows)[0].astype(float) for _ in range(2))
    rest, top = best_of(kind, trials - 1, rng, rows)
    one = 0.5 * skilled + np.sqrt(0.75) * market
    scale = VOLATILITY / np.sqrt(YEAR)
    for sharpe in SHARPES:
        mine = scale * skilled + sharpe * VOLATILITY / YEAR
        picked = mine if mine.mean() / mine.std() >= top else scale * rest
        yield sharpe, picked, scale * one


def refusals(growth: FloatArray, one: FloatArray, trials: int, rules: GateRules) -> list[str]:
    """The rules that refuse; the bootstrap is left out where a rule without one has refused already."""
    document = {"kind": "base", "leaks": [], "judgement": granted(trials)}
    verdict = document["judgement"]["verdict"]
    deflated = own_deflated(growth, trials)
    depth = metrics.max_drawdown(growth.cumsum())
    ratio = metrics.sharpe(growth, YEAR)
    quick = {"Sharpe": ratio <= rules.min_sharpe, "deflated Sharpe": deflated <= rules.min_deflated_sharpe}
    quick |= {"drawdown": depth >= rules.max_drawdown}
    if any(quick.values()):
        return [rule for rule, refused in quick.items() if refused]
    both = {POLICY: growth, ONE: one}
    curves = {f"growth/{name}": path for name, path in both.items()}
    curves |= {f"return/{name}": np.expm1(path) for name, path in both.items()}
    curves |= {f"equity/{name}": path.cumsum() for name, path in both.items()}
    accounts = Accounts.of(curves)
    if accounts.useful[0].mean() <= accounts.useful[1].mean():
        return ["better than 1.0"]
    found = measured(accounts, YEAR, REPLICATIONS)
    interval = {"estimate": found.drawdown[0], "lower": found.drawdown[0], "upper": found.drawdown[0]}
    verdict |= {"own": {"sharpe": vars(found.sharpe), "drawdown": interval}, "utility": vars(found.utility)}
    document["judgement"] |= {"own_deflated_sharpe": deflated, "training_gain": found.utility.estimate}
    return [line.rule for line in statistical_lines(document, rules) if not line.passed]


def granted(trials: int) -> dict[str, dict]:
    """What is not asked here: controls as they must be, a positive control that nothing honest reaches, a spread."""
    planted = {"name": "planted", "passed": True, "sentence": "", "numbers": {"utility": 10.0, "edge": 1.0}}
    others = ("driftless", "shuffled", "lag", "costs")
    controls = [planted, *({"name": n, "passed": True, "sentence": "", "numbers": {}} for n in others)]
    less = {BEST: {"utility": {"estimate": 0.1, "lower": 0.0, "upper": 0.2}}}
    verdict = {"trials": trials, "less": less, "one_liner": "granted", "spread": 0.3, "saturation": 0.2}
    return {"controls": controls, "verdict": verdict}


def picture(passed: dict[str, dict[int, list[float]]]) -> str:
    """Three panels side by side, one a number of trials; a line a law of returns; the 5 % bar dashed."""
    width, height, left, top, wide, tall = 780, 270, 46, 34, 216, 180
    style = "font:12px system-ui,sans-serif"
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" style="{style}">']
    parts.append(f'<rect width="{width}" height="{height}" fill="#fff"/>')
    for panel, trials in enumerate(TRIALS):
        x0 = left + panel * (wide + 26)
        said = f"{trials} trial{'s' * (trials > 1)}"
        parts.append(f'<text x="{x0}" y="20" fill="#1c2330" font-weight="600">{said}</text>')
        for share in (0, 0.25, 0.5, 0.75, 1):
            y = top + tall * (1 - share)
            parts.append(f'<path d="M{x0} {y:.0f}h{wide}" stroke="#dfe2e6"/>')
            if panel == 0:
                label = f'<text x="{x0 - 6}" y="{y + 4:.0f}" text-anchor="end" fill="#667085">{100 * share:g} %</text>'
                parts.append(label)
        y = top + tall * (1 - BAR)
        parts.append(f'<path d="M{x0} {y:.1f}h{wide}" stroke="#c0362c" stroke-dasharray="4 3"/>')
        for sharpe in (0, 1, 2, 3, 4):
            x = x0 + wide * sharpe / 4
            at = f'x="{x:.0f}" y="{top + tall + 16}"'
            parts.append(f'<text {at} text-anchor="middle" fill="#667085">{sharpe}</text>')
        for kind in RETURNS:
            points = zip(SHARPES, passed[kind][trials], strict=True)
            line = " ".join(f"{x0 + wide * s / 4:.1f},{top + tall * (1 - p):.1f}" for s, p in points)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[kind]}" stroke-width="2"/>')
    for i, kind in enumerate(RETURNS):
        x = left + 130 * i
        parts.append(f'<path d="M{x} {height - 12}h20" stroke="{COLOURS[kind]}" stroke-width="2"/>')
        parts.append(f'<text x="{x + 26}" y="{height - 8}" fill="#1c2330">{kind}</text>')
    axis = "true Sharpe ratio a year; dashed: 5 %, what noise may pass at most"
    parts.append(f'<text x="{left + 400}" y="{height - 8}" fill="#667085">{axis}</text></svg>')
    return "\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="of each cell")
    parser.add_argument("--years", type=int, default=YEARS)
    parser.add_argument("--picture", type=Path, default=None, help="where to draw it, an SVG file")
    options = parser.parse_args()
    started, rules, rows = time.perf_counter(), GateRules(), int(options.years * YEAR)
    passed: dict[str, dict[int, list[float]]] = {kind: {} for kind in RETURNS}
    for kind in RETURNS:
        for trials in TRIALS:
            count, why = Counter[float](), {sharpe: Counter[str]() for sharpe in SHARPES}
            for run in range(options.runs):
                for sharpe, growth, one in strategies(kind, trials, run, rows):
                    refused = refusals(growth, one, trials, rules)
                    count[sharpe] += not refused
                    why[sharpe].update(refused)
            passed[kind][trials] = [count[sharpe] / options.runs for sharpe in SHARPES]
            shares = " | ".join(f"{100.0 * share:g}" for share in passed[kind][trials])
            print(f"| {kind} | {trials} | {shares} |    {time.perf_counter() - started:.0f} s", flush=True)
            for sharpe in SHARPES:
                print(f"    {sharpe:g}: {dict(why[sharpe].most_common(4))}", flush=True)
    if options.picture:
        options.picture.write_text(picture(passed))
    worst = max(passed[kind][trials][0] for kind in RETURNS for trials in TRIALS)
    print(json.dumps({"passed": passed, "noise": worst, "runs": options.runs}))
    return int(worst > BAR)


if __name__ == "__main__":
    sys.exit(main())
