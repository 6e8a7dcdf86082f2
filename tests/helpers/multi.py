"""Panels for the multi-asset tests, and the design's ledger for A assets in scalar Python, written from the text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from helpers.envs import random_bars
from himari_rl.certification.grading import Grade
from himari_rl.certification.thresholds import Budget
from himari_rl.data.panel import Panel, panel_of
from himari_rl.envs.config import MultiAssetEnvConfig
from himari_rl.envs.multi_asset_env import MultiAssetTradingEnv


def symbols(count: int) -> tuple[str, ...]:
    return tuple(f"C{a:02d}-USD" for a in range(count))


def random_panel(assets: int, rows: int, seed: int, *, sigma: float = 0.01, gaps: float = 0.1) -> Panel:
    """Every asset with its own outages, placeholders, funding and signals."""
    return panel_of([random_bars(rows, seed * 100 + a, sigma=sigma, gaps=gaps, symbol=s)
                     for a, s in enumerate(symbols(assets))])  # fmt: skip


class Line(NamedTuple):
    """What the scalar ledger says after one decision."""

    exposure: list[float]
    price: float
    cost: float
    funding: float
    log_growth: float


def scalar_portfolio(
    panel: Panel, config: MultiAssetEnvConfig, row: int, multipliers: Sequence[Sequence[float]]
) -> list[Line]:
    """One account on A assets, one bar and one asset at a time, floats only."""
    times = sorted({int(t) for bars in panel.bars for t in bars.timestamp if panel.start <= t <= panel.end})
    at = [{int(t): i for i, t in enumerate(bars.timestamp)} for bars in panel.bars]
    limits, rate = config.limits, config.commission_rate + config.slippage_bps / 10_000
    held, log_equity, day, stopped = [0.0] * len(at), 0.0, 0.0, False
    story = []
    for t, wish in enumerate(multipliers, row):
        now, then, after = times[t], times[t + 1], times[t + 2]
        if then // 86_400_000 != now // 86_400_000:
            day, stopped = log_equity, False
        wanted = []
        for a, bars in enumerate(panel.bars):
            k = max(i for time, i in at[a].items() if time <= now)
            opinions = [int(x) for x in bars.signals.action[: k + 1] if x != 0]
            side = opinions[-1] if opinions else 0
            side = side if config.allow_short else max(side, 0)
            returns = [bars.close[i] / bars.close[i - 1] - 1.0 for i in range(k - 19, k + 1)] if k >= 20 else [0.0]
            mean = sum(returns) / len(returns)
            volatility = min(math.sqrt(sum((r - mean) ** 2 for r in returns) / len(returns)), 0.1)
            risk = bars.signals.cascade_risk[k]
            cap = limits.high_vol_cap if volatility >= limits.high_vol_volatility else limits.normal_cap
            cap = limits.crisis_cap if volatility >= limits.crisis_volatility or risk >= limits.crisis_risk else cap
            cap = limits.cascade_cap if risk >= limits.cascade_risk else cap
            size = 0.0 if stopped else min(max(wish[a], 0.0), 2.0, cap)
            wanted.append(size * side * config.max_position_pct)
        gross = sum(abs(w) for w in wanted)
        wanted = [w * limits.max_leverage / gross for w in wanted] if gross > limits.max_leverage else wanted

        def worth(a: int, time: int, column: str) -> float:
            bars, here = panel.bars[a], at[a].get(time)
            if here is not None:
                return float(getattr(bars, column)[here])
            return float(bars.close[max(i for other, i in at[a].items() if other < time)])

        filled = [at[a].get(then) is not None and b.volume[at[a][then]] > 0 for a, b in enumerate(panel.bars)]
        room = max(limits.max_leverage - sum(abs(w) for w, trades in zip(held, filled, strict=True) if not trades), 0.0)
        asked = sum(abs(w) for w, trades in zip(wanted, filled, strict=True) if trades)
        wanted = [w * room / asked for w in wanted] if asked > room else wanted
        exposure, cost, price, funding, marked = [], 0.0, 0.0, 0.0, 0.0
        for a, bars in enumerate(panel.bars):
            later = at[a].get(after)
            exposure.append(wanted[a] if filled[a] else held[a])
            cost += rate * abs(exposure[a] - held[a])
            price += exposure[a] * (worth(a, after, "open") / worth(a, then, "open") - 1.0)
            marked += exposure[a] * (worth(a, then, "close") / worth(a, then, "open") - 1.0)
            paid = 0.0 if later is None else float(bars.funding_rate[later])
            funding += exposure[a] * (0.0 if math.isnan(paid) else paid)
        growth = 1.0 + price - cost - funding
        stopped = stopped or math.exp(log_equity + math.log(1.0 + marked - cost) - day) <= 1.0 - limits.daily_loss_stop
        moved = [worth(a, after, "open") / worth(a, then, "open") for a in range(len(at))]
        held = [w * m / growth for w, m in zip(exposure, moved, strict=True)]
        log_equity += math.log(growth)
        story.append(Line(exposure, price, cost, funding, math.log(growth)))
    return story


def played(panel: Panel, config: MultiAssetEnvConfig, row: int, multipliers: np.ndarray) -> list[dict]:
    """The env's infos, one a step."""
    env = MultiAssetTradingEnv(panel, config)
    env.reset(seed=0, options={"row": row})
    return [env.step(m)[4] for m in multipliers]


def named_rival(name: str, seed: int, budget: Budget) -> dict[str, Grade]:
    """A rival for `certify`: says what it was asked for, its share the budget in million bars.

    Here, because a spawned process imports it by name.
    """
    share = budget.bars / 1e6
    return {f"a rival on {name} with seed {seed}": Grade(name, share, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, ())}
