"""Live equals backtest: a day over HTTP and a year in the process replay without a difference; others are named."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import shared_data
from helpers.bundle import DRIFT, SYMBOLS, make_bundle
from helpers.drift_nets import bundle_of
from helpers.serving import running
from helpers.stream import changed, lines, market, runner_of, said
from himari_rl.cli import main
from himari_rl.data.panel import panel_of
from himari_rl.data.sources import load_bars
from himari_rl.errors import DataError
from himari_rl.evaluation.backtest import backtest, stage
from himari_rl.features.signals import with_signals
from himari_rl.journal.entry import DECISION
from himari_rl.journal.store import DecisionJournal, open_journal
from himari_rl.policy.protocol import OneByOne
from himari_rl.policy.runtime import load_policy
from himari_rl.runner.config import PortfolioConfig, RunConfig
from himari_rl.runner.policies import CloudPolicy
from himari_rl.runner.replay import Replayed, replay
from himari_rl.schema import HOUR_MS, Bars
from himari_rl.serving.http.app import create_app

DAY, WARM = 24, 240
YEAR = 8_760 if "HIMARI_KILLS" in os.environ else 2_190
"""Hours of real bars: a quarter of a year; the whole one in `make kill`, as in benchmarks/runner_day.py."""
PATIENT = RunConfig(clock="bar", rl_timeout_ms=60_000.0)


def real(symbol: str, rows: int) -> Bars:
    """The newest hours of a real market, each with the reference signal as its signal."""
    bars = load_bars(shared_data("binance-spot", f"{symbol}_1h.parquet"))[-rows:]
    return replace(with_signals(bars), symbol=symbol)


def made(symbol: str, rows: int) -> Bars:
    return market(symbol, sum(map(ord, symbol)), rows)


def over_http(place: Path, folder: Path, every: Sequence[Bars]) -> list[Replayed]:
    """The last day of some bars through runner, server and journal, replayed."""
    rows = len(every[0])
    with running(create_app(folder)) as server, open_journal(place) as journal:
        symbols = tuple(bars.symbol for bars in every)
        policy = CloudPolicy(str(server.base_url), symbols, HOUR_MS, PATIENT)
        assert policy.trouble == ""
        runner = runner_of(journal, policy, run=PATIENT, histories={bars.symbol: bars[: rows - DAY] for bars in every})
        stream = lines(every, range(rows - DAY, rows))
        told = [each for line in stream for each in runner.handle([line])]
        policy.close()
        assert len(told) == len(stream)  # every signal one decision
        assert {(each["source"], each["cause"]) for each in told} == {("gcp_api", "")}
        assert len({(each["symbol"], each["bar"]) for each in told}) == len(stream)
        journal.verify()
        return replay(journal, load_policy(folder))


@pytest.mark.parametrize("kind", ["base", "lstm", DRIFT, "multi"])
def test_a_day_over_http_replays_without_a_difference(tmp_path: Path, kind: str) -> None:
    every = [made(symbol, WARM + DAY) for symbol in SYMBOLS[kind]]
    [found] = over_http(tmp_path / "j.sqlite", bundle_of(tmp_path, kind, hidden=(16,)), every)
    assert (found.decisions, found.answered, found.differences) == (DAY, DAY, ())
    assert found.equity_gap < 1e-12


def test_a_day_of_real_bars_over_http_replays_without_a_difference(tmp_path: Path) -> None:
    every = [real(symbol, WARM + DAY) for symbol in SYMBOLS["multi"]]
    [found] = over_http(tmp_path / "j.sqlite", make_bundle(tmp_path, "multi", hidden=(16,)), every)
    assert (found.decisions, found.answered, found.differences) == (DAY, DAY, ())


def in_process(journal: DecisionJournal, folder: Path, every: Sequence[Bars], start: int) -> list[dict[str, Any]]:
    runner = runner_of(journal, folder, histories={bars.symbol: bars[:start] for bars in every})
    stream = lines(every, range(start, len(every[0])))
    return [each for i in range(0, len(stream), 60) for each in runner.handle(stream[i : i + 60])]


@pytest.mark.parametrize(("kind", "rows"), [("base", 700), ("lstm", 700), (DRIFT, 700), ("multi", 500)])
def test_over_weeks_equity_is_the_backtest_s(tmp_path: Path, kind: str, rows: int) -> None:
    """Of each kind, a month; a quarter of real hours is below."""
    equity_is_the_backtest_s(tmp_path, kind, [made(symbol, WARM + rows) for symbol in SYMBOLS[kind]])


def test_over_a_year_or_a_quarter_of_real_bars_equity_is_the_backtest_s(tmp_path: Path) -> None:
    equity_is_the_backtest_s(tmp_path, "base", [real("BTC-USDT", WARM + YEAR)])


def equity_is_the_backtest_s(tmp_path: Path, kind: str, every: Sequence[Bars]) -> None:
    """Like for like: the backtest asks the policy one state at a time, as the runner does."""
    rows = len(every[0]) - WARM
    folder = bundle_of(tmp_path, kind, hidden=(16,))
    policy, start = load_policy(folder), PortfolioConfig().equity_usd
    with open_journal(tmp_path / "j.sqlite") as journal:
        told = in_process(journal, folder, every, WARM)
        [found] = replay(journal, policy)
    assert len(told) == rows * len(every)
    assert (found.decisions, found.answered, found.differences) == (rows, rows, ())
    history = every[0] if len(every) == 1 else panel_of(every)
    on, ledger = stage(history, policy.manifest.ledger, WARM), policy.manifest.ledger
    run = backtest({"policy": OneByOne(policy)}, on, ledger, rng=np.random.default_rng(0)).run("policy")
    equity = np.array([each["equity_usd"] for each in told[:: len(every)]])
    ends = np.log(equity[1:-1] / start)  # the last bar has no fill that the backtest knows
    np.testing.assert_allclose(ends, run.marked_log_equity, rtol=0, atol=1e-9)
    assert np.ptp(ends) > 0.01


def set_state(document: dict[str, Any]) -> None:
    document["state"][11] += 2e-6  # momentum over one hour


def set_close(document: dict[str, Any]) -> None:
    document["close"] *= 1.0001


def set_size(document: dict[str, Any]) -> None:
    document["size_usd"] += 0.011


def set_multiplier(document: dict[str, Any]) -> None:
    document["multiplier"] = document["wanted"] = document["wanted"] + 2e-5


@pytest.mark.parametrize(
    ("edit", "what", "cause"),
    [
        (set_state, "momentum_1h", "bars or signals are not those that were encoded"),
        (set_close, "volatility", "bars or signals"),
        (set_size, "size_usd", "limits or direction differ"),
        (set_multiplier, "multiplier", "the same policy answered otherwise"),
    ],
)
def test_a_difference_is_listed_with_its_cause(tmp_path: Path, edit: Any, what: str, cause: str) -> None:
    place, folder, bars = tmp_path / "j.sqlite", make_bundle(tmp_path, hidden=(8,)), [made("BTC-USDT", WARM + 40)]
    with open_journal(place) as journal:
        in_process(journal, folder, bars, WARM)
        [row] = journal.newest(1, kind=DECISION)
    changed(place, row.number - 5, edit)
    with open_journal(place) as journal:
        [found] = replay(journal, load_policy(folder))
    assert [one.cause for one in found.differences if one.what == what and cause in one.cause], found.differences


def test_another_bundle_is_named_as_the_cause(tmp_path: Path) -> None:
    bars = [made("BTC-USDT", WARM + 30)]
    folder, other = (make_bundle(tmp_path, name=str(i), hidden=(8,), weights_seed=i) for i in range(2))
    with open_journal(tmp_path / "j.sqlite") as journal:
        in_process(journal, folder, bars, WARM)
        [found] = replay(journal, load_policy(other))
    assert all("answered, this is" in one.cause for one in found.differences if one.what == "multiplier")
    assert found.differences


def test_gaps_fallbacks_and_given_accounts_replay_too(tmp_path: Path) -> None:
    folder, bars = make_bundle(tmp_path, "lstm", hidden=(8,)), made("BTC-USDT", WARM + 60)
    account = {"exposure": 0.25, "unrealised_pnl": 0.01, "win_rate": 0.6}
    rows = [row for row in range(WARM, WARM + 60) if row not in (WARM + 9, WARM + 10, WARM + 30)]
    for name, portfolio in (("paper", PortfolioConfig()), ("given", PortfolioConfig(account="given"))):
        with open_journal(tmp_path / name) as journal:
            run = RunConfig(clock="bar", warm_bars=WARM + 5)
            runner = runner_of(journal, folder, histories={"BTC-USDT": bars[:WARM]}, run=run, portfolio=portfolio)
            for number, row in enumerate(rows):
                signal = said(bars, row)
                if name == "given":
                    signal["account"] = account | {"equity_usd": 10_000.0 - 30.0 * (number % 20)}
                [told] = runner.handle([json.dumps(signal)])
                assert "rejected" not in told, told
            [found] = replay(journal, load_policy(folder))
        assert (found.differences, found.fallbacks, found.decisions) == ((), {"few_bars": 5}, len(rows))


def test_the_command_says_what_differs_and_its_exit_code_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, folder, bars = tmp_path / "j.sqlite", make_bundle(tmp_path, hidden=(8,)), [made("BTC-USDT", WARM + 30)]
    other = make_bundle(tmp_path, name="other", hidden=(8,), weights_seed=9)
    with open_journal(place) as journal:
        in_process(journal, folder, bars, WARM)
    assert main(["replay", str(place), "--bundle", str(folder)]) == 0
    assert "30 bars, 30 answered, no fallbacks; 0 differences" in capsys.readouterr().out
    assert main(["replay", str(place), "--bundle", str(other)]) == 1
    assert "answered, this is" in capsys.readouterr().out
    assert main(["replay", str(place), "--bundle", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["differences"] == []


def test_a_journal_without_the_policy_s_symbols_is_refused(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path, hidden=(8,))
    with open_journal(tmp_path / "j.sqlite") as journal, pytest.raises(DataError, match="no decision on BTC-USDT"):
        replay(journal, load_policy(folder))
