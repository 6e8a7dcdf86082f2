"""Champion against challenger: each account is what its policy alone would have; once a bar; sticky; harm stops."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.bundle import SYMBOLS, make_bundle
from helpers.stream import REPLAYED, lines, market, runner_of, said
from himari_rl.cli import main
from himari_rl.errors import ConfigError, DataError
from himari_rl.journal.entry import DECISION, HALT, OUTCOME, PLAN, VERDICT, entry_of
from himari_rl.journal.store import DecisionJournal, open_journal
from himari_rl.policy.runtime import load_policy
from himari_rl.runner.ab import CHALLENGER, CHAMPION, Experiment, arm_of, growths, version_of
from himari_rl.runner.config import AbConfig, RunConfig
from himari_rl.runner.policies import LocalPolicy
from himari_rl.runner.replay import replay
from himari_rl.runner.verdict import BETTER, ENDED, RUNNING, WORSE, power_plan, report, settle
from himari_rl.schema import HOUR_MS

WARM, ROWS = 240, 320


def two(tmp_path: Path, kind: str = "base") -> tuple[Path, Path]:
    return tuple(make_bundle(tmp_path, kind, name=f"b{i}", hidden=(8,), weights_seed=i) for i in range(2))  # type: ignore[return-value]


def local(folder: Path) -> LocalPolicy:
    return LocalPolicy(load_policy(folder))


@pytest.mark.parametrize("kind", ["base", "lstm", "multi"])
def test_each_account_is_what_its_policy_alone_would_have(tmp_path: Path, kind: str) -> None:
    champion, challenger = two(tmp_path, kind)
    every = [market(symbol, seed, ROWS) for seed, symbol in enumerate(SYMBOLS[kind])]
    histories = {bars.symbol: bars[:WARM] for bars in every}
    stream = [line for k, line in enumerate(lines(every, range(WARM, ROWS))) if not 30 <= k // len(every) < 33]
    equity = []
    for name, folder in (("a", champion), ("b", challenger)):
        with open_journal(tmp_path / name) as journal:
            told = runner_of(journal, folder, histories=histories).handle(stream)
            equity.append([each["equity_usd"] for each in told[:: len(every)]])
    with open_journal(tmp_path / "a") as live, open_journal(tmp_path / "ab") as kept:
        assert Experiment(live, kept, local(challenger)).catch_up() == ROWS - WARM - 3
        found = growths(kept)
        kept.verify()
    for arm in range(2):
        grown = np.exp(np.cumsum(found.growth[arm, :, 0])) * 10_000.0
        np.testing.assert_allclose(grown, equity[arm], rtol=1e-12)
    assert equity[0] != equity[1]


def test_a_restart_writes_each_outcome_once_and_must_be_the_same_experiment(tmp_path: Path) -> None:
    champion, challenger = two(tmp_path)
    bars = market("BTC-USDT", 1, ROWS)
    stream = lines([bars], range(WARM, ROWS))
    with open_journal(tmp_path / "live") as live, open_journal(tmp_path / "ab") as kept:
        runner = runner_of(live, champion, histories={"BTC-USDT": bars[:WARM]})
        runner.handle(stream[:40])
        first = Experiment(live, kept, local(challenger))
        assert first.catch_up() == 40
        runner.handle(stream[40:])
        again = Experiment(live, kept, local(challenger))
        assert (again.catch_up(), again.catch_up()) == (40, 0)
        assert first.catch_up() == 40  # it would write them too: they stand already
        assert [row.entry.bar for row in kept.entries(kinds=[OUTCOME])] == bars.timestamp[WARM:].tolist()
        assert len(list(kept.entries(kinds=[PLAN]))) == 1
        with pytest.raises(ConfigError, match="begun with another ab"):
            Experiment(live, kept, local(challenger), config=AbConfig(alpha=0.01))
        with pytest.raises(ConfigError, match="begun with another challenger"):
            Experiment(live, kept, local(champion))


def test_where_the_runner_had_no_answer_neither_policy_has_a_merit(tmp_path: Path) -> None:
    champion, challenger = two(tmp_path)
    bars = market("BTC-USDT", 1, ROWS)
    with open_journal(tmp_path / "live") as live, open_journal(tmp_path / "ab") as kept:
        run = RunConfig(clock="bar", enable_rl=False)
        runner_of(live, champion, run=run, histories={"BTC-USDT": bars[:WARM]}).handle(lines([bars], range(WARM, ROWS)))
        Experiment(live, kept, local(challenger)).catch_up()
        found = growths(kept)
    np.testing.assert_array_equal(found.growth[0], found.growth[1])
    assert found.causes == {"disabled": ROWS - WARM}


def test_an_account_s_policy_is_sticky_seeded_and_by_strategy_and_symbol() -> None:
    names = [(f"s{i}", ("BTC-USDT",)) for i in range(2_000)]
    config = AbConfig(share=0.3)
    arms = [arm_of(*name, config) for name in names]
    assert arms == [arm_of(*name, config) for name in names]
    share = np.mean([arm == CHALLENGER for arm in arms])
    assert abs(share - 0.3) < 4.0 * np.sqrt(0.3 * 0.7 / 2_000)
    assert arms != [arm_of(*name, AbConfig(share=0.3, seed=1)) for name in names]
    assert arms != [arm_of(name, ("ETH-USDT",), config) for name, _ in names]
    more = [arm_of(*name, AbConfig(share=0.6)) for name in names]  # a larger share takes nobody's account away
    assert all(b == CHALLENGER for a, b in zip(arms, more, strict=True) if a == CHALLENGER)
    assert {arm_of(*name, AbConfig(share=0.0)) for name in names} == {CHAMPION}


def split_of(config: AbConfig) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {CHAMPION: [], CHALLENGER: []}
    for name in (f"s{i}" for i in range(20)):
        found[arm_of(name, ("BTC-USDT",), config)].append(name)
    return {arm: names[:2] for arm, names in found.items()}


def test_a_split_sizes_each_account_with_its_own_policy_through_restarts(tmp_path: Path) -> None:
    champion, challenger = two(tmp_path, "lstm")
    config, bars = AbConfig(mode="split"), market("BTC-USDT", 1, ROWS)
    own = split_of(config)
    names = [name for arm in own.values() for name in arm]
    stream = [json.dumps(said(bars, row, name)) for row in range(WARM, ROWS) for name in names]
    versions = {CHAMPION: local(champion).version, CHALLENGER: local(challenger).version}
    with open_journal(tmp_path / "live") as live, open_journal(tmp_path / "ab") as kept:
        for part in (stream[:60], stream[60:]):
            more = {"challengers": [local(challenger)], "ab": config, "histories": {"BTC-USDT": bars[:WARM]}}
            told = runner_of(live, champion, **more).handle(part)
            for each in told:
                arm = CHALLENGER if each["strategy"] in own[CHALLENGER] else CHAMPION
                assert (each["arm"], each["version"]) == (arm, versions[arm])
        for folder, arm in ((champion, CHAMPION), (challenger, CHALLENGER)):
            found = replay(live, load_policy(folder))
            assert sorted(each.strategy for each in found) == sorted(own[arm])
            assert all(each.differences == () for each in found)
        Experiment(live, kept, local(challenger), local(champion), config).catch_up()
        grown = growths(kept)
        assert np.isfinite(grown.growth).all()  # the other policy is on paper on every account
        whole = report(kept)
        assert whole.paired is not None
        assert whole.split is not None
        assert whole.split.bars == ROWS - WARM
    with open_journal(tmp_path / "live") as live, open_journal(tmp_path / "alone") as kept:
        Experiment(live, kept, local(challenger), None, config).catch_up()
        alone = report(kept)
        assert alone.paired is None
        assert alone.primary == alone.split
        assert alone.split == whole.split


def test_a_challenger_of_another_symbol_or_interval_is_refused(tmp_path: Path) -> None:
    champion, challenger = two(tmp_path)
    other = make_bundle(tmp_path, name="eth", hidden=(8,), symbols=("ETH-USDT",))
    slow = local(challenger)
    slow.interval_ms = 4 * HOUR_MS
    with open_journal(tmp_path / "live") as live, open_journal(tmp_path / "ab") as kept:
        for wrong, words in ((local(other), "without a champion"), (slow, "bars of 14400000 ms")):
            with pytest.raises(ConfigError, match=words):
                runner_of(live, champion, challengers=[wrong])
        with pytest.raises(ConfigError, match="the challenger is for ETH-USDT"):
            Experiment(live, kept, local(other), local(champion))


def written(kept: DecisionJournal, difference: float, bars: int, mode: str = "shadow", **more: float) -> None:
    """An experiment whose challenger grows by so much more, a bar."""
    rng, config = np.random.default_rng(0), AbConfig(mode=mode, block_bars=4, min_blocks=10, **more)  # type: ignore[arg-type]
    terms = {"champion": "a", "challenger": "b", "symbols": ["BTC-USDT"], "interval_ms": HOUR_MS, "journal": "x"}
    kept.append([entry_of(PLAN, {"ab": vars(config)} | terms)])
    entries = []
    for bar in range(bars):
        common = float(rng.normal(0.0, 0.01))
        for name in (CHAMPION, CHALLENGER):
            own = 0.001 * float(rng.normal())
            grown = {CHAMPION: common, CHALLENGER: common + difference + own}
            body = {"cause": "", "growth": {name: grown[name]} if mode == "split" else grown}
            body["arm"] = name if mode == "split" else CHAMPION
            entries.append(entry_of(OUTCOME, body, strategy=name, symbol="BTC-USDT", bar=bar * HOUR_MS))
    kept.append(entries)


@pytest.mark.parametrize(
    ("difference", "more", "verdict"),
    [(0.001, {}, BETTER), (-0.001, {}, WORSE), (0.0, {}, RUNNING), (0.0, {"max_bars": 300}, ENDED)],
)
def test_the_verdict_is_what_is_true_and_is_kept(
    tmp_path: Path, difference: float, more: dict[str, float], verdict: str
) -> None:
    with open_journal(tmp_path / "live") as live, open_journal(tmp_path / "ab") as kept:
        written(kept, difference, 400, **more)
        found = settle(kept, live)
        assert found.verdict == verdict
        assert found.paired is not None
        assert found.paired.lower < found.paired.difference < found.paired.upper
        settle(kept, live)
        assert len(list(kept.entries(kinds=[VERDICT]))) == (verdict != RUNNING)
        assert len(live) == 0


def test_harm_in_a_split_halts_the_challenger_s_accounts(tmp_path: Path) -> None:
    champion, challenger = two(tmp_path)
    bars, config = market("BTC-USDT", 1, ROWS), AbConfig(mode="split")
    with open_journal(tmp_path / "live") as live, open_journal(tmp_path / "ab") as kept:
        written(kept, -0.002, 400, "split")
        found = settle(kept, live)
        assert (found.verdict, found.paired) == (WORSE, None)
        [halt] = [row.entry for row in live.entries(kinds=[HALT])]
        assert (halt.strategy, halt.symbol, halt.said["reason"]) == (CHALLENGER, "BTC-USDT", "harm")
        runner = runner_of(live, champion, challengers=[local(challenger)], ab=config)
        for name, cause in ((CHALLENGER, "halted"), (CHAMPION, "few_bars")):
            [told] = runner.handle([json.dumps(said(bars, 0, name))])
            assert told["cause"] == cause


def test_the_plan_of_the_issue() -> None:
    plan = power_plan(0.2, AbConfig(), HOUR_MS, correlation=0.98, accounts=6, between=0.6)
    paired, split = plan.weeks
    assert split > 10.0 * paired > 0.0
    assert str(plan) == f"to see 0.2 Sharpe you need {paired:,.0f} weeks paired, {split:,.0f} split"
    alone = power_plan(0.2, AbConfig(), HOUR_MS, correlation=0.98, accounts=1, between=0.6)
    assert alone.weeks[1] == float("inf")  # one account cannot be split


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    champion, challenger = two(tmp_path)
    bars = market("BTC-USDT", 1, ROWS + 400)
    place, out = str(tmp_path / "live.sqlite"), str(tmp_path / "ab.sqlite")
    with open_journal(place) as live:
        runner_of(live, champion, run=REPLAYED, histories={"BTC-USDT": bars[:WARM]}).handle(
            lines([bars], range(WARM, ROWS + 400))
        )
        decided = len(list(live.entries(kinds=[DECISION])))
    assert main(["ab", "run", place, "--challenger", str(challenger), "--out", out]) in (0, 1)
    assert "growth a year" in capsys.readouterr().out
    assert main(["ab", "status", out]) == 0
    assert f"{decided:,} bars" in capsys.readouterr().out
    assert main(["ab", "report", out, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["challenger"], document["paired"]["bars"]) == (version_of(local(challenger)), decided)
    assert main(["ab", "plan", "--sharpe", "0.2", "--experiment", out]) == 0
    assert "weeks paired" in capsys.readouterr().out
    assert main(["ab", "plan", "--sharpe", "0.2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["paired_weeks"] > 0
    assert main(["ab", "status", str(tmp_path / "none")]) == 2
    with open_journal(tmp_path / "empty") as empty, pytest.raises(DataError, match="no experiment"):
        report(empty)
