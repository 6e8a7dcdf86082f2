"""Costs beyond one rate: each asset's own, resting orders and square-root impact, against a scalar twin to 1e-12."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from helpers.bundle import make_manifest
from helpers.envs import play
from helpers.evaluation import Rule, bars_from, ledger, walk
from himari_rl.config import from_assignments, resolve
from himari_rl.data.panel import panel_of
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.envs.trading_env import TradingEnv
from himari_rl.errors import ConfigError
from himari_rl.evaluation.backtest import BASE, POLICY, Variant, backtest, stage
from himari_rl.policy.charges import Charges
from himari_rl.policy.ledger import Costs, fees
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.policy.risk import RiskLimits
from himari_rl.schema import HOUR_MS

FULL = {
    "commission_rates": (0.001, 0.0004, 0.002),
    "slippages_bps": (5.0, 2.0, 10.0),
    "maker_share": 0.3,
    "maker_rate": -0.0001,
    "impact": 0.9,
    "impact_volatility": 0.04,
    "capital_usd": 2e6,
    "volume_usd": 5e7,
}


def paid(of: dict[str, Any], asset: int, traded: float, price: float = 1.0) -> float:
    """What a trade costs, from the text of the options: in dollars, as a share of equity."""
    capital = of["capital_usd"]
    dollars = abs(traded) * capital
    taken = (1.0 - of["maker_share"]) * dollars
    fee = taken * (of["commission_rates"][asset] + of["slippages_bps"][asset] / 10_000.0)
    fee += of["maker_share"] * dollars * of["maker_rate"]
    moved = of["impact"] * of["impact_volatility"] * math.sqrt(dollars / of["volume_usd"])
    return (fee + dollars * moved) / capital


def test_fees_are_those_of_the_text_to_the_last_digits() -> None:
    costs = Charges(**FULL).costs(0.5, 500.0)  # the one rate counts for nothing where each asset has its own
    assert isinstance(costs, Costs)
    traded = np.array([[0.0, 0.01, 0.3], [0.7, 1e-6, 0.05]])
    expected = [[paid(FULL, a, float(t)) for a, t in enumerate(row)] for row in traded]
    np.testing.assert_allclose(fees(costs, traded), expected, rtol=1e-12, atol=1e-18)
    on_torch = fees(Costs(torch.as_tensor(costs.rate), costs.impact), torch.as_tensor(traded))
    np.testing.assert_allclose(on_torch.numpy(), expected, rtol=1e-12, atol=1e-18)


def test_a_portfolio_pays_what_a_scalar_ledger_pays_to_1e_12() -> None:
    rows, rng = 300, np.random.default_rng(0)
    opens = [walk(rows, seed) for seed in range(3)]
    panel = panel_of([bars_from(o, symbol=f"S{a}-USD") for a, o in enumerate(opens)])
    spec = ledger(charges=FULL)
    wanted = rng.uniform(0.0, 0.6, (rows, 3))
    policy = _Several(wanted)
    found = backtest({POLICY: policy}, stage(panel, spec), spec, variants=(BASE,), rng=rng).run(POLICY)
    held, log_equity = [0.0] * 3, 0.0
    for t in range(rows - 2):
        target = [0.5 * wanted[t, a] for a in range(3)]
        gross = sum(map(abs, target))
        cost = sum(paid(FULL, a, target[a] - held[a]) for a in range(3))
        moved = [opens[a][t + 2] / opens[a][t + 1] - 1.0 for a in range(3)]
        growth = 1.0 + sum(w * r for w, r in zip(target, moved, strict=True)) - cost
        held = [w * (1.0 + r) / growth for w, r in zip(target, moved, strict=True)]
        log_equity += math.log(growth)
        assert gross <= 1.0
        assert found.cost[t] == pytest.approx(cost, abs=1e-12)
        assert found.log_growth[: t + 1].sum() == pytest.approx(log_equity, abs=1e-12)


class _Several:
    def __init__(self, wanted: np.ndarray) -> None:
        self.wanted = wanted

    def decide_batch(self, states: np.ndarray, memory: int | None = None) -> tuple[np.ndarray, int]:
        step = memory or 0
        return np.repeat(self.wanted[step][None], len(states), axis=0), step + 1


def test_the_environment_and_the_backtest_pay_the_same() -> None:
    bars = bars_from(walk(120, 1))
    charges = Charges(impact=1.0, capital_usd=1e7, volume_usd=1e8, maker_share=0.5, maker_rate=0.0002)
    config = TradingEnvConfig(charges=charges, limits=RiskLimits.off(), episode_bars=80)
    multipliers = np.random.default_rng(2).uniform(0.0, 2.0, 80)
    inside = play(TradingEnv(bars, config), multipliers.tolist(), 0, 80)
    spec = LedgerSpec.of(config, HOUR_MS)
    rule = Rule(lambda states, step: np.full(len(states), multipliers[min(step, 79)]))
    outside = backtest({POLICY: rule}, stage(bars, spec), spec, variants=(BASE,), rng=np.random.default_rng(0))
    np.testing.assert_allclose(inside["cost"], outside.run(POLICY).cost[:80], atol=1e-12)
    np.testing.assert_allclose(inside["log_growth"], outside.run(POLICY).log_growth[:80], atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_ten_times_the_capital_earns_less_again_and_again(seed: int) -> None:
    bars = bars_from(walk(400, seed))
    rng = np.random.default_rng(seed)
    multipliers = rng.uniform(0.0, 2.0, 400)
    rule = Rule(lambda states, step: np.full(len(states), multipliers[step]))
    earned = []
    for capital in (1e3, 1e4, 1e5, 1e6, 1e7, 1e8):
        spec = ledger(charges={"impact": 1.0, "capital_usd": capital, "volume_usd": 1e8})
        run = backtest({POLICY: rule}, stage(bars, spec), spec, variants=(BASE,), rng=rng).run(POLICY)
        earned.append(float(run.log_growth.sum()))
    assert all(more > less for more, less in pairwise(earned)), earned
    without = backtest({POLICY: rule}, stage(bars, ledger()), ledger(), variants=(BASE,), rng=rng).run(POLICY)
    assert float(without.log_growth.sum()) > earned[0]
    flat = {
        "impact": 0.0,
        "maker_share": 0.1,
        "capital_usd": 1e8,
    }  # negative control: without impact size costs nothing
    same = [
        backtest({POLICY: rule}, stage(bars, s), s, variants=(BASE,), rng=rng).run(POLICY).log_growth.sum()
        for s in (ledger(charges=flat), ledger(charges=flat | {"capital_usd": 1e3}))
    ]
    assert same[0] == same[1]


def test_twice_the_costs_is_twice_all_of_them() -> None:
    bars = bars_from(walk(200, 3))
    spec = ledger(charges={"impact": 1.0, "capital_usd": 1e6, "volume_usd": 1e8})
    rule = Rule(lambda states, step: np.full(len(states), float(step % 2)))
    variants = (BASE, Variant("x2", 2.0))
    found = backtest({POLICY: rule}, stage(bars, spec), spec, variants=variants, rng=np.random.default_rng(0))
    first = [found.run(POLICY, name).cost[0] for name in ("x1", "x2")]
    second = [found.run(POLICY, name).cost[1] for name in ("x1", "x2")]
    assert first == [0.0, 0.0]  # it wants nothing at first
    assert second[1] == pytest.approx(2.0 * second[0], rel=1e-12)


def test_the_manifest_keeps_them_and_without_them_a_version_is_what_it_was() -> None:
    config = LedgerConfig(charges=Charges(**FULL))
    spec = LedgerSpec.of(config, HOUR_MS)
    again = LedgerSpec.model_validate_json(spec.model_dump_json())
    assert again.config == config
    assert LedgerSpec.of(LedgerConfig(), HOUR_MS).charges is None
    plain = make_manifest()
    assert '"charges"' not in str(plain.model_dump(mode="json", include={"config"}))
    dear = plain.model_copy(update={"ledger": plain.ledger.model_copy(update={"charges": {"impact": 1.0}})})
    assert dear.version != plain.version


def test_rates_for_other_assets_and_numbers_that_are_none_are_refused() -> None:
    spec = ledger(charges={"commission_rates": (0.001, 0.002)})
    with pytest.raises(ConfigError, match="2 commission_rates for BTC-USDT; expected 1"):
        stage(bars_from(walk(200, 0)), spec)
    for wrong in ({"impact": -1.0}, {"maker_share": 1.5}, {"commission_rates": (math.nan,)}, {"volume_usd": 0.0}):
        with pytest.raises(ConfigError):
            Charges(**wrong)


def test_they_are_said_and_can_be_set_from_the_command_line() -> None:
    given = from_assignments(["environment.charges.impact=0.7", "environment.charges.capital_usd=5000000"])
    config = resolve({"environment": TradingEnvConfig}, given)["environment"]
    assert (config.charges.impact, config.charges.capital_usd) == (0.7, 5e6)
    assert "impact 0.7 x sqrt law, 5,000,000 of 1,000,000,000 USD a day" in config.describe()
    assert "impact" not in LedgerConfig().describe()
