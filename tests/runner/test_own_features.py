"""Own features in Layer 2's stream: read by name, refused by name, replayed without a difference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.bundle import make_bundle
from helpers.own import KINDS, NAMES, history_of, line_of, markets, trained
from helpers.serving import running
from helpers.stream import REPLAYED, changed, runner_of
from himari_rl.errors import StateError
from himari_rl.evaluation.backtest import backtest, stage
from himari_rl.features.own import with_features
from himari_rl.journal.entry import ANSWER, DECISION, REJECTION
from himari_rl.journal.store import DecisionJournal, open_journal
from himari_rl.policy.protocol import OneByOne
from himari_rl.policy.runtime import load_policy
from himari_rl.runner.ab import Experiment, outcomes
from himari_rl.runner.config import AbConfig, RunConfig
from himari_rl.runner.policies import CloudPolicy, LocalPolicy
from himari_rl.runner.replay import replay
from himari_rl.runner.replay_answers import replay_answers
from himari_rl.schema import HOUR_MS, Bars
from himari_rl.serving.http.app import create_app
from himari_rl.serving.settings import ServeSettings

ROWS, WARM = 900, 240


def stream(every: Sequence[Bars], rows: range, names: Sequence[str] = NAMES) -> list[str]:
    return [json.dumps(line_of(bars, row, names)) for row in rows for bars in every]


def histories(every: Sequence[Bars]) -> dict[str, Bars]:
    return {bars.symbol: bars[:WARM] for bars in every}


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_with_features_is_the_backtest_and_replays_without_a_difference(tmp_path: Path, kind: str) -> None:
    every = markets(kind, ROWS)
    folder = trained(tmp_path / "run", kind, every)
    policy = load_policy(folder)
    half = len(every) * (ROWS - WARM) // 2
    with open_journal(tmp_path / "j.sqlite") as journal:
        told: list[dict[str, Any]] = []
        said = stream(every, range(WARM, ROWS))
        for part in (said[:half], said[half:]):  # a runner that is restarted on the way
            runner = runner_of(journal, folder, histories=histories(every))
            told += [each for i in range(0, len(part), 60) for each in runner.handle(part[i : i + 60])]
        assert {each.get("cause") for each in told} == {""}
        [found] = replay(journal, policy)
        states = [row.entry.said["state"] for row in journal.entries(kinds=[DECISION]) if "state" in row.entry.said]
    assert (found.decisions, found.answered, found.differences) == (ROWS - WARM, ROWS - WARM, ())
    expected = np.column_stack([bars.extra[name] for bars in every for name in NAMES])[WARM:]
    np.testing.assert_allclose(np.array(states)[:, -expected.shape[1] :], expected, rtol=0, atol=1e-12)
    seen = with_features(history_of(every), NAMES)
    on, ledger = stage(seen, policy.manifest.ledger, WARM), policy.manifest.ledger
    run = backtest({"policy": OneByOne(policy)}, on, ledger, rng=np.random.default_rng(0)).run("policy")
    equity = np.log(np.array([each["equity_usd"] for each in told[:: len(every)]][1:-1]) / 10_000.0)
    np.testing.assert_allclose(equity, run.marked_log_equity, rtol=0, atol=1e-9)


def refusals(journal: DecisionJournal) -> list[tuple[str, str]]:
    return [(row.entry.said["reason"], row.entry.said["why"]) for row in journal.entries(kinds=[REJECTION])]


@pytest.mark.parametrize("kind", ["base", "multi"])
def test_what_is_missing_or_unknown_is_refused_by_name_and_nothing_is_guessed(tmp_path: Path, kind: str) -> None:
    every = markets(kind, ROWS)
    folder = trained(tmp_path / "run", kind, every)
    last = every[-1]
    wrong = {
        "lacks the feature y": {"x": 1.0},
        "lacks the feature x": None,
        "has the feature z, which no policy reads": {"x": 1.0, "y": 1.0, "z": 1.0},
        "features.y is 'high'": {"x": 1.0, "y": "high"},
        "features.'y' is 10000000000.0": {"x": 1.0, "y": 1e10},
        "features.y is True": {"x": 1.0, "y": True},
        "features is [1.0]": [1.0],
    }
    with open_journal(tmp_path / "j.sqlite") as journal:
        runner = runner_of(journal, folder, histories=histories(every))
        for row, (why, features) in enumerate(wrong.items(), start=WARM):
            lines = stream(every[:-1], range(row, row + 1))
            lines.append(json.dumps(line_of(last, row) | {"features": features}))
            told = runner.handle(lines)
            assert {each["rejected"] for each in told} <= {"feature", "shape", "missing"}
            assert all(each["multiplier"] == 1.0 and each["source"] == "fallback" for each in told)
            assert any(why in said for _, said in refusals(journal)), why
        assert not list(journal.entries(kinds=[DECISION]))
        runner.finish()
        row = WARM + len(wrong)
        assert {each["cause"] for each in runner.handle(stream(every, range(row, row + 1)))} == {""}
        reasons = [reason for reason, _ in refusals(journal)]
        assert reasons.count("feature") == (4 if kind == "base" else 7)  # of a panel both symbols' parts


def test_a_policy_of_the_contract_s_numbers_takes_no_feature(tmp_path: Path) -> None:
    every = markets("base", ROWS)
    with open_journal(tmp_path / "j.sqlite") as journal:
        runner = runner_of(journal, make_bundle(tmp_path, hidden=(16,)), histories=histories(every))
        [told] = runner.handle(stream(every, range(WARM, WARM + 1)))
        assert "BTC-USDT has the feature x, which no policy reads; expected none" in told["why"]


def test_replay_names_a_feature_that_a_journal_changed_or_lost(tmp_path: Path) -> None:
    every = markets("base", ROWS)
    folder = trained(tmp_path / "run", "base", every)
    place = tmp_path / "j.sqlite"
    with open_journal(place) as journal:
        runner = runner_of(journal, folder, histories=histories(every))
        runner.handle(stream(every, range(WARM, WARM + 20)))
        number = next(row.number for row in journal.entries(kinds=[DECISION]))
    changed(place, number, lambda said: said["features"].update(x=0.5))
    with open_journal(place) as journal:
        [found] = replay(journal, load_policy(folder))
    assert found.differences[0].what == "x"
    changed(place, number, lambda said: said["features"].pop("x"))
    with open_journal(place) as journal, pytest.raises(StateError, match="BTC-USDT lacks the feature x"):
        replay(journal, load_policy(folder))


@pytest.mark.parametrize("kind", ["base", "multi"])
def test_over_http_the_server_says_which_features_it_reads(tmp_path: Path, kind: str) -> None:
    every = markets(kind, ROWS)
    folder = trained(tmp_path / "run", kind, every)
    patient = RunConfig(clock="bar", rl_timeout_ms=60_000.0)
    with running(create_app(folder)) as server, open_journal(tmp_path / "j.sqlite") as journal:
        policy = CloudPolicy(str(server.base_url), [bars.symbol for bars in every], HOUR_MS, patient)
        assert (policy.trouble, policy.own) == ("", NAMES)
        runner = runner_of(journal, policy, run=patient, histories=histories(every))
        told = runner.handle(stream(every, range(WARM, WARM + 24)))
        policy.close()
        assert {(each["source"], each["cause"]) for each in told} == {("gcp_api", "")}
        [found] = replay(journal, load_policy(folder))
    assert (found.answered, found.differences) == (24, ())


def test_a_challenger_in_the_shadow_reads_features_that_the_runner_was_told_of(tmp_path: Path) -> None:
    every = markets("base", ROWS)
    champion, folder = make_bundle(tmp_path, hidden=(16,)), trained(tmp_path / "run", "base", every)
    challenger, run = LocalPolicy(load_policy(folder)), RunConfig(clock="bar", features=NAMES)
    with open_journal(tmp_path / "j.sqlite") as live, open_journal(tmp_path / "ab.sqlite") as kept:
        runner = runner_of(live, champion, run=run, histories=histories(every))
        assert not any("rejected" in each for each in runner.handle(stream(every, range(WARM, WARM + 10))))
        experiment = Experiment(live, kept, challenger, config=AbConfig(mode="shadow"))
        assert experiment.catch_up() == 10
        answers = {said["multipliers"]["challenger"][0] for _, _, said in outcomes(kept)}
        assert len(answers) > 1
        runner.handle(stream(every, range(WARM + 10, WARM + 11), ["x"]))
        with pytest.raises(StateError, match="BTC-USDT lacks the feature y"):
            experiment.catch_up()


def test_in_a_split_each_policy_reads_its_own(tmp_path: Path) -> None:
    every = markets("base", ROWS)
    one = trained(tmp_path / "one", "base", every, ["x"])
    other = LocalPolicy(load_policy(trained(tmp_path / "other", "base", every, ["y"])))
    with open_journal(tmp_path / "j.sqlite") as journal:
        runner = runner_of(journal, one, run=REPLAYED, histories=histories(every), challengers=[other])
        lines = [json.dumps(line_of(every[0], WARM, strategy=f"s{k}")) for k in range(12)]
        told = runner.handle(lines)
    assert {each["arm"] for each in told} == {"champion", "challenger"}
    assert {each["cause"] for each in told} == {""}


def test_drift_names_a_feature_that_is_not_as_in_training(tmp_path: Path) -> None:
    every = markets("base", 2_600)
    folder = trained(tmp_path / "run", "base", every)
    spec = load_policy(folder).manifest.drift
    assert spec is not None
    assert set(NAMES) < set(spec.features)
    with open_journal(tmp_path / "j.sqlite") as journal:
        runner = runner_of(journal, folder, histories=histories(every))
        for row in range(WARM, WARM + 150):
            line = line_of(every[0], row)
            line["features"]["x"] += 5.0
            [told] = runner.handle([json.dumps(line)])
        assert any(each.startswith("drift: x: ") for each in told["reasons"])
        assert "x" in {name for _, _, name, *_ in runner.drifts}
        [found] = replay(journal, load_policy(folder))
        assert found.drift["x"] > 0


@pytest.mark.parametrize("kind", ["base", "multi"])
def test_a_server_s_journal_replays_with_features(tmp_path: Path, kind: str) -> None:
    every = markets(kind, ROWS)
    folder, place = trained(tmp_path / "run", kind, every), tmp_path / "served.sqlite"
    settings = ServeSettings(journal=str(place), journal_wait_s=60.0)
    with running(create_app(folder, settings)) as client:
        for row in range(WARM, WARM + 12):
            assets = {}
            for bars in every:
                line = line_of(bars, row)
                assets[bars.symbol] = {
                    "bar": {name: line["bar"][name] for name in ("timestamp", "close")},
                    "signal": line["signal"],
                    "account": {"exposure": 0.1, "unrealised_pnl": 0.0, "win_rate": 0.5},
                    "features": line["features"],
                }
                if row == WARM:
                    past = range(row - 30, row)
                    assets[bars.symbol]["history"] = [[int(bars.timestamp[i]), float(bars.close[i])] for i in past]
            body = {"assets": assets} if kind == "multi" else next(iter(assets.values()))
            answer = client.post("/v1/decide", json={"session_id": "s", **body})
            assert answer.status_code == 200, answer.text
    with open_journal(place, create=False) as journal:
        number = max(row.number for row in journal.entries(kinds=[ANSWER]))
        [found] = replay_answers(journal, load_policy(folder))
        assert (found.compared, found.encoded, found.differences, found.left_out) == (12, 12, (), {})
    changed(place, number, lambda said: said["state"].__setitem__(-1, 9.0))
    with open_journal(place, create=False) as journal:
        [found] = replay_answers(journal, load_policy(folder))
        assert [each.what for each in found.differences] == ["y" if kind == "base" else "ETH-USDT.y"]
