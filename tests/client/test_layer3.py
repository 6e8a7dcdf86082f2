"""The client against this project's own server: its account is the backtest's; a dead server is 1.0 with a cause."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers import ROOT
from helpers.bundle import SYMBOLS, make_bundle
from helpers.faulty import faulty_server
from helpers.own import NAMES, history_of, markets, trained
from helpers.serving import running
from himari_rl.client import ClientConfig, ClosedBar, Layer3, Signal
from himari_rl.data.panel import panel_of
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.errors import ConfigError, StateError
from himari_rl.evaluation.backtest import backtest, stage
from himari_rl.features.own import with_features
from himari_rl.features.signals import with_signals
from himari_rl.policy.protocol import OneByOne
from himari_rl.policy.runtime import load_policy
from himari_rl.schema import Bars
from himari_rl.serving.http.app import create_app

ROWS, WARM = 330, 200  # 128 decisions
PATIENT = ClientConfig(timeout_ms=60_000.0)


def market(symbol: str, seed: int) -> Bars:
    return replace(with_signals(synthetic_bars(ROWS, seed)), symbol=symbol)


def closed(bars: Bars, row: int) -> ClosedBar:
    return ClosedBar(
        int(bars.timestamp[row]), float(bars.open[row]), float(bars.close[row]), bool(bars.volume[row] > 0)
    )


def said(bars: Bars, row: int) -> Signal:
    each = bars.signals
    assert each is not None
    return Signal(
        int(each.action[row]), float(each.confidence[row]), int(each.tier[row]), float(each.cascade_risk[row])
    )


@pytest.mark.parametrize("kind", ["base", "lstm", "multi"])
def test_the_account_that_the_client_keeps_is_the_backtest_s(tmp_path: Path, kind: str) -> None:
    folder = make_bundle(tmp_path, kind, hidden=(8,))
    policy, symbols = load_policy(folder), SYMBOLS[kind]
    bars = {symbol: market(symbol, seed) for seed, symbol in enumerate(symbols)}
    history = bars[symbols[0]] if len(symbols) == 1 else panel_of(list(bars.values()))
    on = stage(history, policy.manifest.ledger, WARM)
    rng = np.random.default_rng(0)
    run = backtest({"policy": OneByOne(policy)}, on, policy.manifest.ledger, rng=rng).run("policy")
    with running(create_app(folder)) as server, Layer3(str(server.base_url), symbols, config=PATIENT) as layer3:
        assert layer3.trouble == ""
        layer3.begin([{s: closed(bars[s], row) for s in symbols} for row in range(WARM)])
        for t, row in enumerate(range(WARM, WARM + len(run.log_growth))):
            sized = layer3.decide({s: closed(bars[s], row) for s in symbols}, {s: said(bars[s], row) for s in symbols})
            assert sized.cause == ""
            np.testing.assert_allclose(list(sized.multipliers.values()), run.multiplier[t], rtol=0, atol=1e-6)


def test_a_server_that_stalls_or_is_gone_is_exactly_one_with_the_cause() -> None:
    bars = market("BTC-USDT", 0)
    config = ClientConfig(timeout_ms=3_000.0, breaker_failures=1_000)
    with faulty_server() as server, Layer3(server.url, ("BTC-USDT",), config=config) as layer3:
        layer3.begin(closed(bars, row) for row in range(30))
        causes = []
        for row, mode in enumerate(["good", "stall", "500", '{"position_multiplier": 2.1}', "good"], start=30):
            server.mode = mode
            sized = layer3.decide(closed(bars, row), said(bars, row))
            causes.append(sized.cause)
            assert sized.multiplier == (1.0 if sized.cause else 0.75)
        assert causes == ["", "timeout", "5xx", "invalid_answer", ""]


def test_a_decision_before_the_windows_are_full_is_one() -> None:
    bars = market("BTC-USDT", 0)
    with faulty_server() as server, Layer3(server.url, ("BTC-USDT",)) as layer3:
        sized = layer3.decide(closed(bars, 0), said(bars, 0))
        assert (sized.multiplier, sized.cause, server.calls) == (1.0, "few_bars", 0)


def test_the_example_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_bundle(tmp_path, "base", hidden=(8,), symbols=("BTC-SYNTHETIC",))
    with running(create_app(folder)) as server:
        runpy.run_path(str(ROOT / "examples" / "layer2_client.py"))["main"](str(server.base_url))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert all("USD" in line for line in lines)


@pytest.mark.parametrize("kind", ["base", "recurrent", "multi"])
def test_it_passes_own_features_by_name_and_refuses_a_bar_without_them(tmp_path: Path, kind: str) -> None:
    every = {bars.symbol: bars for bars in markets(kind, 900)}
    folder = trained(tmp_path / "run", kind, list(every.values()))
    policy, symbols = load_policy(folder), tuple(every)
    history = with_features(history_of(list(every.values())), NAMES)
    on, ledger = stage(history, policy.manifest.ledger, WARM), policy.manifest.ledger
    rng = np.random.default_rng(0)
    run = backtest({"policy": OneByOne(policy)}, on, ledger, rng=rng).run("policy")

    def bar(symbol: str, row: int) -> ClosedBar:
        own = {name: float(every[symbol].extra[name][row]) for name in reversed(NAMES)}
        rates = every[symbol].funding_rate
        assert rates is not None
        return closed(every[symbol], row)._replace(features=own, funding=float(rates[row]))

    with running(create_app(folder)) as server:
        url = str(server.base_url)
        with pytest.raises(ConfigError, match="features x; expected x, y, which the policy behind"):
            Layer3(url, symbols, features=["x"])
        with Layer3(url, symbols, features=NAMES, config=PATIENT) as layer3:
            layer3.begin([{s: closed(every[s], row) for s in symbols} for row in range(WARM)])
            signals = {s: said(every[s], WARM) for s in symbols}
            lacking = {s: bar(s, WARM)._replace(features={"x": 1.0}) for s in symbols}
            with pytest.raises(StateError, match=f"{symbols[0]} lacks y"):
                layer3.decide(lacking, signals)
            for t, row in enumerate(range(WARM, WARM + 60)):
                signals = {s: said(every[s], row) for s in symbols}
                sized = layer3.decide({s: bar(s, row) for s in symbols}, signals)
                assert sized.cause == ""
                np.testing.assert_allclose(list(sized.multipliers.values()), run.multiplier[t], rtol=0, atol=1e-6)
