"""The controls of a verdict, and the walk-forward's judgement that contains them.

(a) driftless   placebo: the same pipeline on a twin of the data with random signs; it must be refused
(b) planted     positive control: the same pipeline on a twin with a stated edge; it must be found
(c) shuffled    permutation: the same policies on inputs of another time; the advantage must vanish
(d) lag         every decision one bar late: an honest edge shrinks, a leak collapses
(e) costs       x1, x2, x3

A verdict without its controls is not printed: `Judgement` cannot be made without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from himari_rl.errors import RefusedError
from himari_rl.evaluation import metrics, statistics
from himari_rl.evaluation.backtest import (
    BASE,
    LAGGED,
    POLICY,
    SEED,
    VARIANTS,
    Backtest,
    Play,
    Variant,
    backtests,
    stage,
)
from himari_rl.evaluation.baselines import ONE
from himari_rl.evaluation.control import FIXED, POWER, Control, Judgement, control, own_deflated
from himari_rl.evaluation.one_liners import on_training_rows, one_liners, with_best
from himari_rl.evaluation.portfolio_baselines import allocations_of
from himari_rl.evaluation.statements import BETTER, LOOK_AHEAD, NO_EDGE, control_doubt, control_failed
from himari_rl.evaluation.verdict import Verdict, judge
from himari_rl.experiments.external_folds import learned_nothing
from himari_rl.experiments.fold_files import TrainedFold
from himari_rl.experiments.fold_policies import fold_policies
from himari_rl.experiments.power import Power
from himari_rl.experiments.walk_forward import DRIFTLESS, PLANTED, REAL, Key, WalkForwardPlan
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.schema import RISK_AVERSION, FloatArray

SHIFTS = (0.21, 0.43, 0.68)  # of the history, by which inputs are shifted against returns
CONTROL_REPLICATIONS, REPLICATIONS = 400, 2000


def judge_walk(
    work: WalkForwardPlan, trained: Mapping[Key, TrainedFold], trials: int, seed: int = 0
) -> tuple[Judgement, Backtest]:
    """Plays every part of a trained walk-forward and judges it, controls included."""
    settings = work.settings
    every: dict[str, Any] = {POLICY: fold_policies(work, trained, REAL, settings.seeds)}
    every |= {f"{SEED}{s}": fold_policies(work, trained, REAL, (s,)) for s in settings.seeds if len(settings.seeds) > 1}
    gains = [
        trained[REAL, fold, s].gain * work.train_year(fold) for fold in range(len(work.folds)) for s in settings.seeds
    ]
    ledger = trained[REAL, 0, settings.seeds[0]].manifest.ledger
    return judge_parts(work, every, trained, ledger, trials, np.random.default_rng(seed), gains)


def judge_parts(
    work: WalkForwardPlan,
    every: Mapping[str, Any],
    trained: Mapping[Key, TrainedFold],
    ledger: LedgerSpec,
    trials: int,
    rng: np.random.Generator,
    gains: Sequence[float],
    *,
    variants: Sequence[Variant] = VARIANTS,
    risk_aversion: float = RISK_AVERSION,
) -> tuple[Judgement, Backtest]:
    """Judges policies on the real part, with all controls, in one loop over the bars.

    Args:
        every: the judged policy under the name `policy`, its seeds beside it.
        trained: at least both twins.
        gains: objective a year over multiplier 1.0 on training rows, of each trained agent.
        variants: of the real part; with x1 and the lag.
        risk_aversion: of the utility of the real part; the twins keep the usual one, for which their power is known.
    """
    real = work.bars[REAL][: work.stop_row]
    on = stage(real, ledger, work.start_row)
    shifted = {f"shift {share:g}": every[POLICY].shifted(on.rows, int(share * len(on.rows))) for share in SHIFTS}
    plays = [
        Play(
            policies={**every, **one_liners(real, on, work.start_row)},
            on=on,
            variants=variants,
            allocations=allocations_of(real, on, work.start_row),
        ),
        Play(policies=shifted, on=on, variants=(BASE,)),
    ]
    for part in (DRIFTLESS, PLANTED):
        there = stage(work.bars[part][: work.stop_row], ledger, work.start_row)
        twin = {POLICY: fold_policies(work, trained, part, work.settings.control_seeds)}
        plays.append(Play(policies=twin, on=there, variants=(BASE, LAGGED)))
    result, elsewhere, nothing, edge = backtests(plays, ledger, rng)
    del plays, shifted  # of minute bars hundreds of megabytes, and the rivals need their place
    trained_on = [(fold.train, fold.test.start - work.start_row) for fold in work.folds]
    rivals = on_training_rows(real, ledger, trained_on, risk_aversion)
    result = with_best(result, rivals)
    asked: dict[str, Any] = {"trials": trials, "replications": REPLICATIONS, "risk_aversion": risk_aversion}
    verdict = judge(result, rng, **asked, one_liner=rivals.in_words())
    year = result.bars_per_year
    mine = result.run(POLICY).log_growth
    played = [fold for key, fold in trained.items() if key[1] < len(work.folds)]
    controls = (
        control("driftless", _twin(nothing, rng)),
        _planted(edge, work.planted, rng, {FIXED: 1.0} if learned_nothing(played) else {}),
        _shuffled(elsewhere, result, rng, risk_aversion),
        _lag(verdict),
        _costs(result),
    )
    judgement = Judgement(
        verdict=_without_praise(verdict, controls),
        one_liners=rivals,
        own_deflated_sharpe=own_deflated(mine, trials),
        controls=controls,
        detectable=detectable(verdict),
        seeds={name: metrics.sharpe(result.run(name).log_growth, year) for name in every if name != POLICY},
        training_gain=float(np.mean(gains)),
    )
    return judgement, result


def _without_praise(verdict: Verdict, controls: Sequence[Control]) -> Verdict:
    """A policy is not called better, than anything, where a control says that the test itself cannot be trusted."""
    failed = ", ".join(control.name for control in controls if not control.passed)
    if not failed:
        return verdict
    verdict = replace(verdict, doubt=verdict.doubt or control_doubt(failed))
    if verdict.answer != BETTER:
        return verdict
    return replace(verdict, answer=NO_EDGE, sentence=control_failed(failed, verdict.one, verdict.sentence))


def detectable(verdict: Verdict) -> float:
    """Utility a year over multiplier 1.0 that a two-sided 95 % interval shows with 95 % power on this much data."""
    reach = statistics.NORMAL.inv_cdf(0.975) + statistics.NORMAL.inv_cdf(POWER)
    return reach * verdict.utility.standard_error


def _twin(result: Backtest, rng: np.random.Generator) -> dict[str, float]:
    """What both twins are asked (control.py): own Sharpe ratio deflated for one trial, and the paired difference."""
    verdict = judge(result, rng, replications=CONTROL_REPLICATIONS, every=False)
    mine = result.run(POLICY).log_growth
    return {
        "utility": verdict.utility.estimate,
        "utility_lower": verdict.utility.lower,
        "sharpe": metrics.sharpe(mine, result.bars_per_year),
        "deflated_sharpe": own_deflated(mine, 1),
        "look_ahead": float(verdict.answer == LOOK_AHEAD),
    }


def _planted(
    result: Backtest, planted: Power | None, rng: np.random.Generator, known_of_it: Mapping[str, float]
) -> Control:
    if planted is None:
        raise RefusedError("the planted twin has no stated edge", "a plan with twins")
    known = {"edge": planted.edge, "power": planted.power, "honest": planted.honest}
    return control("planted", {**_twin(result, rng), **known, **known_of_it})


def _shuffled(there: Backtest, result: Backtest, rng: np.random.Generator, risk_aversion: float) -> Control:
    """Inputs of another time (a circular shift keeps their own memory) against the same returns."""
    shifted = [name for name in there.strategies if name.startswith("shift ")]
    useful = {name: _utility(there, name, risk_aversion) for name in (*shifted, ONE)}
    true = _utility(result, POLICY, risk_aversion)
    mean = np.mean([useful[name] for name in shifted], axis=0)
    information = statistics.mean_interval(true - mean, rng, replications=CONTROL_REPLICATIONS)
    information = information.scaled(result.bars_per_year)
    numbers = {
        "gain": metrics.growth(true - useful[ONE], result.bars_per_year),
        "left": metrics.growth(mean - useful[ONE], result.bars_per_year),
        "inputs": information.estimate,
        "inputs_lower": information.lower,
        "inputs_upper": information.upper,
    }
    return control("shuffled", numbers)


def _utility(result: Backtest, name: str, risk_aversion: float) -> FloatArray:
    run = result.run(name)
    utility: FloatArray = metrics.utility_per_bar(run.log_growth, run.portfolio_return, risk_aversion)
    return utility


def _lag(verdict: Verdict) -> Control:
    lag = verdict.lag
    return control("lag", {"sharpe": lag.sharpe, "lagged_sharpe": lag.lagged_sharpe, "z": lag.z})


def _costs(result: Backtest) -> Control:
    year = result.bars_per_year
    at = {v.name: metrics.sharpe(result.run(POLICY, v.name).log_growth, year) for v in result.variants if not v.lag}
    return control("costs", at)
