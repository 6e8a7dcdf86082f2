"""Markets for the environment tests, the design's ledger in scalar Python, and the guard against look-ahead."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import gymnasium
import numpy as np

from himari_rl.envs.config import TradingEnvConfig
from himari_rl.errors import LookAheadError
from himari_rl.features.causality import noise_after
from himari_rl.policy.risk import RiskLimits
from himari_rl.schema import HOUR_MS, Bars, Layer2

MIDNIGHT_MS = 1_704_067_200_000  # 2024-01-01 00:00 UTC
FREE = {"commission_rate": 0.0, "slippage_bps": 0.0, "limits": RiskLimits.off(), "reward": "log_growth"}


def bars_of(
    opens: Sequence[float] | np.ndarray,
    closes: Sequence[float] | np.ndarray | None = None,
    action: Sequence[int] | np.ndarray | int = 1,
    **changes: object,
) -> Bars:
    """Hourly bars from a UTC midnight on, with Layer 2 columns; each close is the next open unless given."""
    opens = np.asarray(opens, float)
    closes = np.append(opens[1:], opens[-1]) if closes is None else np.asarray(closes, float)
    rows = len(opens)
    said = Layer2(
        action=np.broadcast_to(np.asarray(action, np.int64), (rows,)).copy(),
        confidence=np.full(rows, 0.5),
        tier=np.full(rows, 2),
        cascade_risk=np.zeros(rows),
        supplied=True,
    )
    fields = {
        "symbol": "TEST-USD",
        "timestamp": MIDNIGHT_MS + HOUR_MS * np.arange(rows, dtype=np.int64),
        "open": opens,
        "high": np.maximum(opens, closes),
        "low": np.minimum(opens, closes),
        "close": closes,
        "volume": np.ones(rows),
        "interval_ms": HOUR_MS,
        "source": "a test",
        "synthetic": True,
        "signals": said,
    }
    return Bars(**(fields | changes))


def random_bars(rows: int, seed: int, *, sigma: float = 0.01, gaps: float = 0.0, **changes: object) -> Bars:
    """Everything a market can throw at a ledger: open != last close, outages, placeholders, funding, all signals."""
    rng = np.random.default_rng(seed)
    opens = 100.0 * np.exp(np.cumsum(rng.normal(0, sigma, rows)))
    closes = opens * np.exp(rng.normal(0, sigma, rows))
    bars = bars_of(opens, closes, rng.integers(-1, 2, rows), **changes)
    said = replace(bars.signals, cascade_risk=rng.random(rows) * 0.9, confidence=rng.random(rows))
    full = replace(
        bars,
        volume=(rng.random(rows) > 0.1).astype(float),
        funding_rate=np.where(rng.random(rows) < 0.3, rng.normal(0, 5e-3, rows), np.nan),
        signals=said,
    )
    return full[rng.random(rows) >= gaps]  # type: ignore[index]


def sb3_vec_env() -> type:
    """Imported where it is used: Stable-Baselines3 is optional."""
    from himari_rl.experiments.sb3_env import Sb3VecEnv

    return Sb3VecEnv


class Bar(NamedTuple):
    """What the scalar ledger says after one decision."""

    exposure: float
    cost: float
    log_growth: float
    log_equity: float
    marked: float
    stopped: bool


def scalar_ledger(bars: Bars, config: TradingEnvConfig, row: int, multipliers: Sequence[float]) -> list[Bar]:
    """The design's clock and ledger, one account, one bar at a time, in floats; written from its text, not the code."""
    held = log_equity = day = 0.0
    stopped, story = False, []
    for t, m in enumerate(multipliers, row):
        opinions = [int(a) for a in bars.signals.action[: t + 1] if a != 0]
        side = opinions[-1] if opinions else 0
        side = side if config.allow_short else max(side, 0)
        returns = [bars.close[i] / bars.close[i - 1] - 1.0 for i in range(t - 19, t + 1)] if t >= 20 else [0.0]
        mean = sum(returns) / len(returns)
        volatility = min(math.sqrt(sum((r - mean) ** 2 for r in returns) / len(returns)), 0.1)
        risk, limits, cap = bars.signals.cascade_risk[t], config.limits, 2.0
        cap = limits.high_vol_cap if volatility >= limits.high_vol_volatility else limits.normal_cap
        cap = limits.crisis_cap if volatility >= limits.crisis_volatility or risk >= limits.crisis_risk else cap
        cap = limits.cascade_cap if risk >= limits.cascade_risk else cap
        if bars.timestamp[t + 1] // 86_400_000 != bars.timestamp[t] // 86_400_000:
            day, stopped = log_equity, False
        wanted = 0.0 if stopped else min(max(m, 0.0), 2.0, cap) * side * config.max_position_pct
        wanted = max(-limits.max_leverage, min(limits.max_leverage, wanted))
        w = wanted if bars.volume[t + 1] > 0 else held
        cost = (config.commission_rate + config.slippage_bps / 10_000) * abs(w - held)
        to_close = bars.close[t + 1] / bars.open[t + 1] - 1.0
        to_open = bars.open[t + 2] / bars.open[t + 1] - 1.0
        funding = 0.0 if bars.funding_rate is None or math.isnan(bars.funding_rate[t + 2]) else bars.funding_rate[t + 2]
        at_close = 1.0 + w * to_close - cost
        growth = 1.0 + w * to_open - w * funding - cost
        stopped = stopped or math.exp(log_equity + math.log(at_close) - day) <= 1.0 - limits.daily_loss_stop
        log_equity += math.log(growth)
        held = w * (1.0 + to_open) / growth
        story.append(Bar(w, cost, math.log(growth), log_equity, w * (1.0 + to_close) / at_close, stopped))
    return story


Policy = Callable[[np.ndarray], float]


def play(env: gymnasium.Env, policy: Policy | Sequence[float], row: int, steps: int) -> dict[str, np.ndarray]:
    """Plays from a row: observations (steps + 1, F), then reward, exposure, cost, log_growth, equity (steps,)."""
    observation, _ = env.reset(seed=0, options={"row": row})
    seen, told, asked = [observation], [], []
    for step in range(steps):
        multiplier = policy(observation) if callable(policy) else policy[step]
        asked.append(multiplier)
        observation, reward, terminated, truncated, info = env.step(np.array([multiplier]))
        seen.append(observation)
        told.append((reward, *(info[name] for name in ("exposure", "cost", "log_growth", "equity"))))
        if terminated or truncated:
            break
    columns = np.array(told).T
    names = ("reward", "exposure", "cost", "log_growth", "equity")
    return {"observation": np.stack(seen), "multiplier": np.array(asked), **dict(zip(names, columns, strict=True))}


def reactive(observation: np.ndarray) -> float:
    """A policy in which every number of the observation matters, so that a leak anywhere moves a decision."""
    return float(np.clip(1.0 + np.sin(np.arange(1, 17) * 37.0 * observation.astype(float)).sum() / 4.0, 0.0, 2.0))


def assert_no_future(
    env_factory: Callable[[Bars], gymnasium.Env], bars: Bars, *, row: int = 0, cuts: int = 12, seed: int = 0
) -> None:
    """Replaces all rows after t by noise: everything that was known or done by the close of bar t must stay.

    That is every observation and decision at a close <= t, the exposure that those decisions lead to (it is wanted at
    the close and filled at the next open, where the bar trades at all), every cost paid at an open <= t and every
    growth that ended at one. Which bars trade is left as it is.

    Raises:
        LookAheadError: naming what moved, and from which bar.
    """
    rng = np.random.default_rng(seed)
    steps = len(bars) - 3 - row
    before = play(env_factory(bars), reactive, row, steps)
    played = len(before["multiplier"])
    for t in sorted(rng.integers(row + 2, row + played, cuts).tolist()):
        noisy = noise_after(bars, t, rng)
        noisy = replace(noisy, volume=np.where(bars.tradable, noisy.volume, 0.0))
        after = play(env_factory(noisy), reactive, row, steps)
        ends = {"observation": t + 1, "multiplier": t + 1, "cost": t, "log_growth": t - 1, "reward": t - 1}
        ends["exposure"] = t + 1 if bars.tradable[t + 1] else t
        for name, end in ends.items():
            moved = before[name][: end - row] != after[name][: end - row]
            if moved.any():
                first = row + int(np.argmax(moved.reshape(len(moved), -1).any(1)))
                raise LookAheadError(f"the {name} of row {first} moved when the rows after {t} became noise")
