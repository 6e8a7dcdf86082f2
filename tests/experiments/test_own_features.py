"""Own features in training, evaluation, export and verification; and what the default learner makes of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.own import KINDS, NAMES, history_of, line_of, market_of_x, markets, told, trained
from helpers.strangers import stranger
from helpers.stream import runner_of
from himari_rl.agents.config import LSTMPPOConfig, MultiPPOConfig, PPOConfig
from himari_rl.cli import main
from himari_rl.cli.vertex import arguments
from himari_rl.data.panel import panel_of
from himari_rl.data.table import write_bars
from himari_rl.envs.config import MultiAssetEnvConfig, TradingEnvConfig
from himari_rl.envs.multi_asset_env import MultiAssetTradingEnv
from himari_rl.errors import BundleError, DataError
from himari_rl.experiments.adapters import RuleFactory
from himari_rl.experiments.evaluate import evaluate
from himari_rl.experiments.evaluation_page import evaluation_html
from himari_rl.experiments.run import walk_forward
from himari_rl.experiments.verify import verify
from himari_rl.features.own import with_features
from himari_rl.journal.store import open_journal
from himari_rl.policy.believer import Believer
from himari_rl.policy.manifest import new_manifest
from himari_rl.policy.runtime import load_policy
from himari_rl.release.gate import gate
from himari_rl.runner.replay import replay
from himari_rl.training.preparation import prepared


@pytest.mark.parametrize("shorts", [False, True])
@pytest.mark.parametrize("assets", [1, 2])
def test_the_beliefs_find_the_edge_that_only_x_knows_and_say_nothing_without(assets: int, shorts: bool) -> None:
    every = [replace(market_of_x(300, seed), symbol=f"S{seed}") for seed in range(assets)]
    environment = TradingEnvConfig(allow_short=shorts)
    agent = PPOConfig() if assets == 1 else MultiPPOConfig()
    drifts = {}
    for names in ((), ("y", "x")):
        history = with_features(history_of(every), names)
        rows, _, beliefs = prepared([history], agent, environment)
        assert beliefs is not None
        assert beliefs.own == len(names)
        drifts[names] = rows[:, -1]
        # a state at a time, with its memory, believes what the whole history does
        dim, believer = rows.shape[1] - 3 * assets, Believer(beliefs, assets)
        memory, history_columns = [0.0] * believer.memory_size, believer.history(rows[:200, :dim])
        for t in range(200):
            one, memory = believer.one(rows[t, :dim].tolist(), memory)
            np.testing.assert_allclose(one, history_columns[t], atol=1e-9)
    x = every[-1].extra["x"][: len(drifts["y", "x"])]
    assert np.corrcoef(drifts["y", "x"], x)[0, 1] > 0.9
    assert abs(np.corrcoef(drifts[()], x)[0, 1]) < 0.3 or np.ptp(drifts[()]) == 0.0


def test_evidence_of_other_symbols_has_the_same_columns() -> None:
    bars, other = with_features(market_of_x(90), ["x"]), market_of_x(90, seed=1)
    _, _, beliefs = prepared([bars], PPOConfig(), TradingEnvConfig(), others=[other])
    assert beliefs is not None
    assert beliefs.own == 1
    with pytest.raises(DataError, match="no numeric column x"):
        prepared([bars], PPOConfig(), TradingEnvConfig(), others=[replace(other, extra={})])


def test_a_manifest_whose_beliefs_are_about_other_features_is_refused(tmp_path: Path) -> None:
    every = markets("base", 900)
    ours, theirs = (load_policy(trained(tmp_path / name, "base", every, list(name))).manifest for name in ("x", "xy"))
    assert theirs.beliefs is not None
    with pytest.raises(BundleError, match="beliefs about 2 own features, the state has 1"):
        new_manifest(**ours.model_dump(mode="json") | {"beliefs": theirs.beliefs.model_dump(mode="json")})


def test_a_drift_net_reads_them_too() -> None:
    bars = with_features(market_of_x(90), ["x", "y"])
    _, _, beliefs = prepared([bars], LSTMPPOConfig(), TradingEnvConfig())
    assert beliefs is not None
    assert beliefs.own == 2
    assert beliefs.drift_net is None or beliefs.drift_net.inputs == 13


@pytest.mark.parametrize("kind", KINDS)
def test_what_train_makes_is_evaluated_on_the_same_columns(tmp_path: Path, kind: str) -> None:
    every = markets(kind, 1_600)
    folder = trained(tmp_path / "run", kind, every)
    policy = load_policy(folder)
    dim = {"base": 18, "recurrent": 18, "multi": 38}[kind]
    assert (policy.manifest.state_dim, policy.manifest.own_features) == (dim, NAMES)
    keep = policy.manifest.normaliser.keep
    assert all(keep[dim - 2 * len(every) : dim])  # the net reads them, whichever column they stand in
    found = evaluate(folder, history_of(every))
    assert len(found.controls) == 5
    assert found.document["data"]["features"] == list(NAMES)
    assert "BTC-USDT" in evaluation_html(policy, history_of(every), found)
    without = [replace(bars, extra={"x": bars.extra["x"]}) for bars in every]
    with pytest.raises(DataError, match="no numeric column y"):
        evaluate(folder, history_of(without))


def test_train_and_evaluate_from_the_command_line(tmp_path: Path, capsys: Any) -> None:
    every = markets("multi", 900)
    for bars in every:
        write_bars(bars, tmp_path / f"{bars.symbol}_1h.csv")
    common = ["--num-episodes", "2", "--seeds", "1", "--json", "--features", "x, y"]
    small = ["--set", "agent.num_envs=20", "--set", "agent.hidden_dim=8", "--set", "agent.minibatch=500"]
    one, several = str(tmp_path / "BTC-USDT_1h.csv"), ["--symbols", "BTC-USDT", "ETH-USDT"]
    for kind, data in (("base", [one]), ("lstm", [one]), ("multi", [str(tmp_path), *several])):
        out, more = str(tmp_path / kind), ["--no-beliefs"] if kind == "lstm" else []
        assert main(["train", kind, "--data", *data, "--out", out, *common, *small, *more]) == 0
        assert load_policy(f"{out}/bundle").manifest.own_features == NAMES
    capsys.readouterr()
    assert main(["evaluate", f"{tmp_path}/base/bundle", "--data", one, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["controls"]
    assert main(["train", "base", "--data", one, "--out", str(tmp_path / "no"), "--features", "z"]) == 2
    assert "no numeric column z; expected one of:" in capsys.readouterr().err
    given = arguments("base", "trainer.py").parse_args(["--features", "x,y"])
    assert given.features == "x,y"


@pytest.mark.parametrize("kind", ["base", "multi"])
def test_the_onnx_graph_reads_them(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("onnxruntime")
    from himari_rl.training.onnx_export import write_onnx

    folder = trained(tmp_path / "run", kind, markets(kind, 900))
    manifest = load_policy(folder).manifest
    if manifest.beliefs is not None:
        from himari_rl.errors import HimariError

        with pytest.raises(HimariError, match="beliefs"):
            write_onnx(folder, tmp_path / "policy.onnx")
    else:
        assert write_onnx(folder, tmp_path / "policy.onnx") < 1e-5


def test_a_panel_s_walk_forward_is_judged_bundled_and_verified_with_them(tmp_path: Path) -> None:
    every = [told(bars, 3) for bars in markets("multi", 24 * 60)]
    module = stranger(tmp_path / "code", "sizes_a_panel_by_x")
    spans: dict[str, Any] = {"train": "20d", "test": "15d", "step": "15d", "purge_bars": 24, "seeds": 1}
    panel = panel_of(every)
    run = walk_forward(RuleFactory(module.by_x_of_two), panel, out=tmp_path / "run", features=["x"], **spans)
    assert run.document["data"]["features"] == ["x"]
    manifest = load_policy(run.bundle).manifest
    assert (manifest.state_dim, manifest.own_features) == (36, ("x",))
    assert verify(tmp_path / "run", panel).equal


def test_the_environment_shows_a_panel_s_features() -> None:
    panel = with_features(panel_of(markets("multi", 600)), NAMES)
    config = MultiAssetEnvConfig(symbols=panel.symbols, episode_bars=50)
    env = MultiAssetTradingEnv(panel, config)
    observation, _ = env.reset(seed=0, options={"row": 40})
    expected = [bars.extra[name][40] for bars in panel.bars for name in NAMES]
    np.testing.assert_allclose(observation[34:], expected, rtol=1e-6)


def test_symbols_with_other_features_make_no_panel() -> None:
    first, second = markets("multi", 100)
    with pytest.raises(DataError, match="BTC-USDT shows x and ETH-USDT shows no own feature"):
        panel_of([with_features(first, ["x"]), second])


def test_the_default_learner_is_promoted_with_x_refused_without_and_run_on_signals_that_carry_it(
    tmp_path: Path,
) -> None:
    bars = market_of_x(450, seed=5)
    spans: dict[str, Any] = {"train": "200d", "test": "250d", "step": "250d", "seeds": 1, "num_episodes": 100}
    spans["accept"] = ["constant-columns"]
    passed = {}
    for names in ([], ["x"]):
        run = walk_forward(bars, out=tmp_path / f"run{len(names)}", features=names, **spans)
        answer = gate(run.bundle, new_ledger=True, latency_ms=lambda bundle, manifest: 0.1)
        passed[len(names)] = answer.passed
    assert passed == {0: False, 1: True}, answer.reason
    first, last = len(bars) - 60, len(bars)
    with open_journal(tmp_path / "j.sqlite") as journal:
        runner = runner_of(journal, Path(run.bundle), histories={bars.symbol: bars[:first]})
        lines = [json.dumps(line_of(bars, row, ["x"])) for row in range(first, last)]
        assert {each["cause"] for each in runner.handle(lines)} == {""}
        [without] = runner.handle([json.dumps(line_of(bars, last - 1, []) | {"strategy": "other"})])
        assert (without["rejected"], without["multiplier"]) == ("feature", 1.0)
        assert "lacks the feature x" in without["why"]
        [found] = replay(journal, load_policy(run.bundle))
    assert (found.answered, found.differences) == (60, ())
