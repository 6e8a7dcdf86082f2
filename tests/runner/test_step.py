"""Every signal is one journalled decision or a refusal by name; a failing policy is exactly 1.0; restarts go on."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from helpers.bundle import DRIFT, SYMBOLS, make_bundle
from helpers.drift_nets import bundle_of
from helpers.faulty import faulty_server
from helpers.stream import INF, NO_HALTS, REPLAYED, lines, market, runner_of, said
from himari_rl.errors import ConfigError
from himari_rl.journal.entry import DECISION, REJECTION
from himari_rl.journal.store import open_journal
from himari_rl.policy.runtime import load_policy
from himari_rl.runner.config import HaltConfig, PortfolioConfig, RunConfig
from himari_rl.runner.policies import CloudPolicy
from himari_rl.runner.replay import replay
from himari_rl.runner.step import Decision
from himari_rl.schema import HOUR_MS

ROWS, WARM = 120, 60
BARS = market("BTC-USDT", 1, ROWS)
HISTORY = {"BTC-USDT": BARS[:WARM]}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"), hidden=(8,))


def decided(told: list[Decision]) -> list[Decision]:
    """Without what differs from run to run."""
    varying = ("latency_ms", "total_ms", "number")
    return [{k: v for k, v in each.items() if k not in varying} for each in told]


def test_every_signal_is_one_decision_that_the_journal_has(tmp_path: Path, bundle: Path) -> None:
    with open_journal(tmp_path / "j.sqlite") as journal:
        runner = runner_of(journal, bundle, histories=HISTORY)
        told = [each for line in lines([BARS], range(WARM, ROWS)) for each in runner.handle([line])]
        kept = [row.entry for row in journal.entries(kinds=[DECISION])]
        journal.verify()
    assert len(told) == len(kept) == ROWS - WARM
    assert {each["source"] for each in told} == {"local_model"}
    for one, entry in zip(told, kept, strict=True):
        assert (entry.strategy, entry.symbol, entry.bar) == ("trend", "BTC-USDT", one["bar"])
        assert {name: entry.said[name] for name in ("multiplier", "size_usd", "units")} == {
            name: one[name] for name in ("multiplier", "size_usd", "units")
        }
        assert one["units"] * entry.said["close"] == pytest.approx(one["size_usd"], rel=1e-12)
        assert one["size_usd"] == pytest.approx(one["exposure"] * one["equity_usd"], rel=1e-12)


def test_lines_that_come_together_are_decided_as_if_they_came_alone(tmp_path: Path, bundle: Path) -> None:
    stream = lines([BARS], range(WARM, ROWS))
    found = []
    for name, size in (("a", 1), ("b", len(stream))):
        with open_journal(tmp_path / name) as journal:
            runner = runner_of(journal, bundle, histories=HISTORY)
            groups = [stream[i : i + size] for i in range(0, len(stream), size)]
            found.append(decided([each for group in groups for each in runner.handle(group)]))
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", ["base", "lstm", DRIFT, "multi"])
def test_a_restart_goes_on_where_the_journal_ends(tmp_path: Path, kind: str) -> None:
    folder = bundle_of(tmp_path, kind, hidden=(8,))
    every = [market(symbol, seed, 300) for seed, symbol in enumerate(SYMBOLS[kind])]
    histories = {bars.symbol: bars[:240] for bars in every}
    stream = lines(every, range(240, 300))
    with open_journal(tmp_path / "whole") as journal:
        whole = runner_of(journal, folder, histories=histories).handle(stream)
    cut = len(every) * 25
    with open_journal(tmp_path / "cut") as journal:
        first = runner_of(journal, folder, histories=histories).handle(stream[:cut])
        again = runner_of(journal, folder, histories=histories).handle(stream)  # the source sends everything again
    assert [each["rejected"] for each in again[:cut]] == ["repeated"] * cut
    assert [each["stands"]["multiplier"] for each in again[:cut]] == [each["multiplier"] for each in first]
    for one, other in zip(first + again[cut:], whole, strict=True):
        assert one["size_usd"] == pytest.approx(other["size_usd"], abs=1e-6)
        assert one["multiplier"] == pytest.approx(other["multiplier"], abs=1e-7)


def bar(row: int, **changes: Any) -> dict[str, Any]:
    """A signal with some fields of its bar changed."""
    whole = said(BARS, row)
    return whole | {"bar": whole["bar"] | changes}


AT = int(BARS.timestamp[WARM + 1])


@pytest.mark.parametrize(
    ("line", "reason", "words"),
    [
        ("{", "shape", "no JSON"),
        ("[1]", "shape", "list"),
        (said(BARS, WARM + 1, symbol="DOGE"), "symbol", "DOGE"),
        (said(BARS, WARM + 1, symbol=None), "symbol", "None"),
        (said(BARS, WARM + 1, extra=1), "shape", "extra"),
        (said(BARS, WARM + 1, signal={"action": "BUY"}), "shape", "no confidence"),
        (said(BARS, WARM + 1, strategy=""), "shape", "strategy"),
        (bar(WARM + 1, timestamp=AT // 1000), "time_unit", "seconds"),
        (bar(WARM + 1, timestamp=AT + 60_000), "off_grid", "1 min"),
        (bar(WARM + 1, timestamp=AT - 40 * HOUR_MS), "order", "after"),
        (bar(WARM + 1, close=1e9), "close", "times"),
        (bar(WARM + 1, close=-1.0), "close", "positive"),
        (bar(WARM + 1, close=None), "shape", "no close"),
        (bar(WARM + 1, open=None), "shape", "no open"),
        (json.dumps(bar(WARM + 1)).replace(str(BARS.close[WARM + 1]), "NaN"), "shape", "NaN"),
        (json.dumps(bar(WARM + 1)).replace('"close":', '"close": 1e999, "high":'), "shape", "inf"),
        (json.dumps(bar(WARM + 1)).replace('"close":', '"close": 1.0, "close":'), "shape", "'close' is there twice"),
        (json.dumps(said(BARS, WARM + 1))[:-1] + ', "bar": {}}', "shape", "'bar' is there twice"),
        (bar(WARM + 1, open=1e-300), "close", "the open"),
        (bar(WARM + 1, open=1e300), "close", "the open"),
        (bar(WARM + 1, open=0), "close", "open is 0"),
        (bar(WARM + 1, funding_rate=1e300), "share", "funding_rate"),
        (bar(WARM + 1, funding_rate=-7.5), "share", "divide per cent by 100"),
        (bar(WARM + 1, volume=-1), "shape", "volume"),
        (bar(WARM + 1, low=2.0 * BARS.close[WARM + 1]), "shape", "low is"),
        (bar(WARM + 1, high=0.5 * BARS.close[WARM + 1]), "shape", "high is"),
        (bar(WARM + 1, low=-1.0), "close", "low is"),
        (bar(WARM + 1, timestamp=float(AT)), "time_unit", "fraction"),
        (bar(WARM + 1, timestamp=10**400), "time_unit", "timestamp"),
        (said(BARS, WARM + 1, strategy="*"), "shape", "all of them"),
        (said(BARS, WARM + 1, strategy="a\u0000b"), "shape", "printable"),
        (said(BARS, WARM + 1, strategy="\ud800"), "shape", "printable"),
        ("[" * 100_000, "shape", ""),
        ("\ufeff{}", "shape", "BOM"),
        ("9" * 5_000, "shape", "digits"),
        (said(BARS, WARM), "repeated", "again"),
        (bar(WARM, close=float(BARS.close[WARM]) * 1.01), "repeated", "again"),
        (
            said(BARS, WARM + 1, account={"exposure": 0.1, "unrealised_pnl": 0, "win_rate": 0.5, "equity_usd": 1.0}),
            "exposure",
            "kept on paper",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_the_next_bar_goes_on(
    tmp_path: Path, bundle: Path, line: Any, reason: str, words: str
) -> None:
    with open_journal(tmp_path / "j.sqlite") as journal:
        runner = runner_of(journal, bundle, histories=HISTORY)
        runner.handle(lines([BARS], range(WARM, WARM + 1)))
        [told] = runner.handle([line if isinstance(line, str) else json.dumps(line)])
        assert (told["rejected"], told["multiplier"], told["source"]) == (reason, 1.0, "fallback"), told
        assert words in told["why"]
        [entry] = [row.entry for row in journal.entries(kinds=[REJECTION])]
        assert entry.said["reason"] == reason
        [after] = runner.handle(lines([BARS], range(WARM + 1, WARM + 2)))
        assert after["source"] == "local_model"
        assert runner.counts.rejections == {reason: 1}


def test_whatever_a_bar_says_the_runner_goes_on(tmp_path: Path, bundle: Path) -> None:
    """Any number in any place: each line is a decision or a refusal, never the end, and the next bar is decided."""
    rng = random.Random(0)
    odd = [0, -0.0, 1e-320, 1e-300, 1e300, 1.7e308, -1e300, 2**63, 10**300, 0.1, 1.0, 10.0, None, True, "1", [], {}]
    fields = ("timestamp", "open", "close", "high", "low", "volume", "funding_rate")
    with open_journal(tmp_path / "j.sqlite") as journal:
        runner = runner_of(journal, bundle, histories=HISTORY)
        for row in range(WARM, ROWS):
            for _ in range(8):
                changes = {name: rng.choice(odd) for name in rng.sample(fields, rng.choice((1, 1, 2)))}
                [told] = runner.handle([json.dumps(bar(row, **changes))])
                assert told["multiplier"] >= 0.0
            [told] = runner.handle(lines([BARS], range(row, row + 1)))
            assert told.get("rejected") in (None, "repeated"), told
            assert 1_000.0 < runner.handle(lines([BARS], range(row, row + 1)))[0]["stands"]["equity_usd"] < 1e5
        journal.verify()


@pytest.mark.parametrize("away_ms", [-5 * HOUR_MS, 5 * HOUR_MS])
def test_a_clock_that_is_set_wrong_and_right_again_refuses_by_name_and_goes_on(
    tmp_path: Path, bundle: Path, away_ms: int
) -> None:
    away, row = 0, WARM
    with open_journal(tmp_path / "j.sqlite") as journal:

        def clock() -> float:
            return (BARS.timestamp[row] + HOUR_MS + 5_000 + away) / 1000.0

        runner = runner_of(journal, bundle, run=RunConfig(), histories=HISTORY, clock=clock, halt=HaltConfig())
        told = []
        for row in range(WARM, WARM + 12):
            away = away_ms if WARM + 3 <= row < WARM + 6 else 0
            told += runner.handle(lines([BARS], range(row, row + 1)))
            told += runner.idle()
    refused = [each.get("rejected", "") for each in told]
    assert refused == [""] * 3 + ["unclosed" if away_ms < 0 else "stale"] * 3 + [""] * 6
    assert {each["multiplier"] for each in told[3:6]} == {1.0}
    assert [each["cause"] for each in told[6:]] == ["halted"] * (3 if away_ms else 0) + [""] * 3
    assert told[-1]["source"] == "local_model"


def test_a_first_bar_that_is_refused_leaves_no_other_history(tmp_path: Path, bundle: Path) -> None:
    """The next runner begins with more bars, and the replay with the same."""
    with open_journal(tmp_path / "j.sqlite") as journal:
        run = RunConfig(clock="bar")
        [told] = runner_of(journal, bundle, run=run, histories={"BTC-USDT": BARS[:30]}).handle(
            [json.dumps(bar(30, open=1e-9))]
        )
        assert told["rejected"] == "close"
        runner_of(journal, bundle, run=run, histories=HISTORY).handle(lines([BARS], range(WARM, WARM + 20)))
        [found] = replay(journal, load_policy(bundle))
    assert (found.decisions, found.differences) == (20, ())


def test_bars_that_are_missing_are_named_and_the_next_is_decided(tmp_path: Path, bundle: Path) -> None:
    with open_journal(tmp_path / "j.sqlite") as journal:
        runner = runner_of(journal, bundle, histories=HISTORY)
        runner.handle(lines([BARS], range(WARM, WARM + 1)))
        [told] = runner.handle(lines([BARS], range(WARM + 3, WARM + 4)))
        assert told["source"] == "local_model"
        [entry] = [row.entry for row in journal.entries(kinds=[REJECTION])]
        assert (entry.said["reason"], entry.said["first"], entry.said["last"]) == ("missing", AT, AT + HOUR_MS)


@pytest.mark.parametrize(
    ("now_ms", "reason"),
    [
        (AT + HOUR_MS, ""),
        (AT + 2 * HOUR_MS, ""),
        (AT + 2 * HOUR_MS + 1000, "stale"),
        (AT + HOUR_MS - 11_000, "unclosed"),
    ],
)
def test_the_clock_on_the_wall_refuses_what_is_stale_or_has_not_closed(
    tmp_path: Path, bundle: Path, now_ms: int, reason: str
) -> None:
    with open_journal(tmp_path / "j.sqlite") as journal:
        runner = runner_of(journal, bundle, run=RunConfig(), histories=HISTORY, clock=lambda: now_ms / 1000.0)
        [told] = runner.handle(lines([BARS], range(WARM + 1, WARM + 2)))
    assert told.get("rejected", "") == reason
    assert told["multiplier"] == 1.0 if reason else told["source"] == "local_model"
    assert runner.counts.causes.get("stale", 0) == (reason == "stale")


def test_several_symbols_of_one_policy_are_decided_when_all_have_come(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path, "multi", hidden=(8,))
    every = [market(symbol, seed, 240) for seed, symbol in enumerate(SYMBOLS["multi"])]
    with open_journal(tmp_path / "j.sqlite") as journal:
        runner = runner_of(journal, folder, histories={bars.symbol: bars[:230] for bars in every})
        first, second, third = lines(every, range(230, 231))
        assert runner.handle([second, first]) == []
        told = runner.handle([third])
        assert [each["symbol"] for each in told] == list(SYMBOLS["multi"])
        together = {"assets": {bars.symbol: _part(bars, 231) for bars in every}, "strategy": "trend"}
        assert [each["source"] for each in runner.handle([json.dumps(together)])] == ["local_model"] * 3
        runner.handle(lines(every[:1], range(232, 233)))
        refused = runner.handle(lines(every[:1], range(233, 234)))
        assert [(each["symbol"], each["rejected"]) for each in refused] == [("BTC-USDT", "missing")]
        assert [each["rejected"] for each in runner.finish()] == ["missing"]


def _part(bars: Any, row: int) -> dict[str, Any]:
    whole = said(bars, row)
    return {"bar": whole["bar"], "signal": whole["signal"]}


def test_a_failing_server_is_exactly_one_with_its_cause_and_the_limits_hold(tmp_path: Path) -> None:
    run = RunConfig(clock="bar", rl_timeout_ms=3_000.0, breaker_failures=1_000)
    with faulty_server() as server, open_journal(tmp_path / "j.sqlite") as journal:
        policy = CloudPolicy(server.url, ("BTC-USDT",), HOUR_MS, run)
        runner = runner_of(journal, policy, run=run, histories=HISTORY)
        told = []
        for row, mode in enumerate(["good", "stall", "500", "nan", "close", "good"], start=WARM):
            server.mode = mode
            told += runner.handle(lines([BARS], range(row, row + 1)))
        policy.close()
    assert [each["cause"] for each in told] == ["", "timeout", "5xx", "invalid_answer", "connection", ""]
    assert [each["multiplier"] for each in told] == [0.75, 1.0, 1.0, 1.0, 1.0, 0.75]
    assert [each["source"] for each in told] == ["gcp_api", *["fallback"] * 4, "gcp_api"]
    assert runner.counts.causes == {"timeout": 1, "5xx": 1, "invalid_answer": 1, "connection": 1}


@pytest.mark.parametrize(
    ("run", "multiplier", "cause"),
    [
        (RunConfig(clock="bar", enable_rl=False), 1.0, "disabled"),
        (RunConfig(clock="bar", warm_bars=1_000), 1.0, "few_bars"),
        (RunConfig(clock="bar", enable_rl=False, fallback_multiplier=0.5), 0.5, "disabled"),
    ],
)
def test_what_is_not_asked_is_the_fallback(
    tmp_path: Path, bundle: Path, run: RunConfig, multiplier: float, cause: str
) -> None:
    with open_journal(tmp_path / "j.sqlite") as journal:
        [told] = runner_of(journal, bundle, run=run, histories=HISTORY).handle(lines([BARS], range(WARM, WARM + 1)))
    assert (told["multiplier"], told["cause"], told["source"]) == (multiplier, cause, "fallback")


def test_a_server_that_fails_may_mean_standing_aside(tmp_path: Path) -> None:
    run = RunConfig(clock="bar", rl_timeout_ms=3_000.0, fallback_on_timeout=False)
    with faulty_server() as server, open_journal(tmp_path / "j.sqlite") as journal:
        server.mode = "500"
        policy = CloudPolicy(server.url, ("BTC-USDT",), HOUR_MS, run)
        runner = runner_of(journal, policy, run=run, histories=HISTORY)
        [told] = runner.handle(lines([BARS], range(WARM, WARM + 1)))
        policy.close()
    assert (told["multiplier"], told["size_usd"]) == (0.0, 0.0)


def test_a_given_account_sizes_with_its_own_equity(tmp_path: Path, bundle: Path) -> None:
    account = {"exposure": 0.25, "unrealised_pnl": 0.01, "win_rate": 0.6, "equity_usd": 50_000.0}
    portfolio = PortfolioConfig(account="given")
    run = RunConfig(clock="bar", enable_rl=False)
    with open_journal(tmp_path / "j.sqlite") as journal:
        runner = runner_of(journal, bundle, run=run, histories=HISTORY, portfolio=portfolio)
        buy = {"action": "BUY", "confidence": 0.9, "tier": "T1", "cascade_risk": 0.0}
        line = json.dumps(said(BARS, WARM, account=account, signal=buy))
        [told] = runner.handle([line])
        assert (told["base_usd"], told["size_usd"]) == (25_000.0, 25_000.0)
        [none] = runner.handle(lines([BARS], range(WARM + 1, WARM + 2)))
        assert none["rejected"] == "exposure"
        [wrong] = runner.handle([json.dumps(said(BARS, WARM + 1, account=account | {"exposure": 25.0}))])
        assert wrong["rejected"] == "exposure"


def test_limits_that_the_owner_sets_go_before_the_policy_s(tmp_path: Path, bundle: Path) -> None:
    buy = {"action": "BUY", "confidence": 0.9, "tier": "T1", "cascade_risk": 0.0}
    run = RunConfig(clock="bar", enable_rl=False)
    with open_journal(tmp_path / "j.sqlite") as journal:
        runner = runner_of(journal, bundle, run=run, histories=HISTORY, risk={"normal_cap": 0.5})
        [told] = runner.handle([json.dumps(said(BARS, WARM, signal=buy))])
        assert (told["multiplier"], told["exposure"], told["reasons"]) == (1.0, 0.25, ["regime_cap"])
    with open_journal(tmp_path / "j.sqlite") as journal, pytest.raises(ConfigError, match="begun with another ledger"):
        runner_of(journal, bundle, histories=HISTORY).handle(lines([BARS], range(WARM + 1, WARM + 2)))


def test_two_runners_on_one_journal_decide_a_bar_once(tmp_path: Path, bundle: Path) -> None:
    place = tmp_path / "j.sqlite"
    with open_journal(place) as one, open_journal(place) as other:
        first, second = runner_of(one, bundle, histories=HISTORY), runner_of(other, bundle, histories=HISTORY)
        stream = lines([BARS], range(WARM, WARM + 6))
        second.handle(stream[:1])
        told = first.handle(stream[:1])  # it knows this strategy from the journal
        assert told[0]["rejected"] == "repeated"
        stands = first.handle(stream[1:2])
        [late] = second.handle(stream[1:2])  # it does not know what the first has decided since
        assert late["repeated"] is True
        assert late["size_usd"] == stands[0]["size_usd"]
        assert "rejected" not in second.handle(stream[2:3])[0]
        assert one.verify() >= 4
        assert len(list(one.entries(kinds=[DECISION]))) == 3


def test_two_policies_for_a_symbol_are_refused(tmp_path: Path, bundle: Path) -> None:
    with open_journal(tmp_path / "j.sqlite") as journal, pytest.raises(ConfigError, match="two policies"):
        runner_of(journal, bundle, bundle)


def test_the_state_is_in_the_journal_only_where_predictions_are_logged(tmp_path: Path, bundle: Path) -> None:
    for name, logged in (("a", True), ("b", False)):
        run = RunConfig(clock="bar", log_rl_predictions=logged)
        with open_journal(tmp_path / name) as journal:
            runner = runner_of(journal, bundle, run=run, histories=HISTORY)
            [told] = runner.handle(lines([BARS], range(WARM, WARM + 1)))
            [row] = journal.entries(kinds=[DECISION])
        assert ("state" in row.entry.said, "wanted" in told) == (logged, logged)


def test_the_defaults_are_the_card_s() -> None:
    config = RunConfig()
    assert (config.rl_timeout_ms, config.fallback_multiplier, config.enable_rl) == (150.0, 1.0, True)
    assert (config.fallback_on_timeout, config.log_rl_predictions) == (True, True)
    assert NO_HALTS.drawdown == INF
    assert REPLAYED.clock == "bar"
