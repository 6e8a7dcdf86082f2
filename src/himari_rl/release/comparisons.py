"""The rules that ask the curves: a portfolio's concentration and shares, and the gain over a champion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from himari_rl.errors import BundleError, ConfigError
from himari_rl.evaluation.backtest import POLICY
from himari_rl.evaluation.baselines import ONE
from himari_rl.evaluation.portfolio_baselines import EQUAL
from himari_rl.evaluation.record import read_curves, read_run, require_evidence
from himari_rl.policy.manifest import Manifest
from himari_rl.release.lines import Line, line
from himari_rl.release.rules import GateRules
from himari_rl.release.statistical import minus_equal
from himari_rl.schema import FloatArray

LSTM_GAIN = "LSTM over base"
SAME_BARS = 0.9


def portfolio_lines(document: Mapping[str, Any], curves: Mapping[str, np.ndarray], rules: GateRules) -> list[Line]:
    """Concentration and shares; the Sharpe ratio is among the numbers of every kind."""
    from himari_rl.evaluation.portfolio import SHARPE, PortfolioCurve, gates

    mine, equal = (
        PortfolioCurve(curves[f"growth/{name}"], curves[exposure])
        for name, exposure in ((POLICY, "exposure"), (EQUAL, f"exposure/{EQUAL}"))
    )
    year = document["judgement"]["verdict"]["bars_per_year"]
    found = gates(
        mine,
        equal,
        document["symbols"],
        year,
        np.random.default_rng(0),
        min_sharpe=rules.min_portfolio_sharpe,
        max_herfindahl=rules.max_herfindahl,
        min_asset_share=rules.min_asset_share,
    )
    return [
        Line(
            rule=gate.name,
            number=gate.value.estimate,
            threshold=gate.threshold,
            comparison=gate.comparison,
            passed=gate.passed,
            why=minus_equal(asdict(gate.difference)),
            lower=gate.value.lower,
            upper=gate.value.upper,
        )
        for gate in found
        if gate.name != SHARPE
    ]


def champion_lines(
    document: Mapping[str, Any], mine: Mapping[str, np.ndarray], rival: Manifest, other: Path, rules: GateRules
) -> list[Line]:
    """Sharpe ratio minus the champion's, on the bars that both walk-forwards judged; an LSTM's must also be sure."""
    from himari_rl.evaluation import metrics, statistics

    require_evidence(other, rival)
    theirs_document, theirs = read_run(other), read_curves(other)
    if theirs_document["bundle"]["model_version"] != rival.version:
        raise BundleError(
            f"the walk-forward in {other} did not write the champion {rival.version}",
            "the champion's own walk-forward beside it",
            "give RUN/bundle of another walk-forward",
        )
    common, i, j = np.intersect1d(mine["fill_time"], theirs["fill_time"], return_indices=True)
    if len(common) < 1000 or theirs_document["symbols"] != document["symbols"]:
        raise ConfigError(
            f"the bundle and {other} share {len(common)} decisions of {document['symbols']}",
            "at least 1000 of the same symbols",
            "walk both forward on the same data",
        )
    fixed = [curves[f"growth/{ONE}"][rows] for curves, rows in ((mine, i), (theirs, j))]
    same = float(np.isclose(fixed[0], fixed[1], rtol=0.0, atol=1e-9).mean())
    if same < SAME_BARS:  # the same bars, signals and costs give multiplier 1.0 the same, but where a walk begins
        raise ConfigError(
            f"multiplier 1.0 earns the same on {100.0 * same:.0f} % of the decisions shared with {other}",
            f"at least {100.0 * SAME_BARS:.0f} %: the same bars, signals and costs",
            "walk both forward on the same data",
        )
    pair = np.column_stack([mine[f"growth/{POLICY}"][i], theirs[f"growth/{POLICY}"][j]])

    def difference(rows: FloatArray) -> FloatArray:
        ratio = metrics.sharpe_ratio(rows.mean(axis=0), rows.std(axis=0, ddof=1))
        return np.array([ratio[0] - ratio[1]])

    draws = statistics.resample(pair, difference, np.random.default_rng(0), replications=1000)
    year = document["judgement"]["verdict"]["bars_per_year"]
    found = statistics.interval(float(difference(pair)[0]), draws[:, 0]).scaled(float(np.sqrt(year)))
    needs_gain = document["kind"] == "lstm" and rival.kind == "base"
    rule, least = (LSTM_GAIN, rules.min_lstm_gain) if needs_gain else ("over the champion", 0.0)
    why = f"Sharpe ratio minus the champion's, {len(common)} shared decisions"
    lines = [line(rule, found.estimate, ">", least, why, asdict(found))]
    if needs_gain:
        sure = "lower end of the paired 95 % interval of that gain: it must exclude 0"
        lines.append(line("LSTM surely over base", found.lower, ">", 0.0, sure, asdict(found)))
    return lines
