"""Somebody's own policy through the whole walk-forward: kept, resumed, the same bytes anywhere, and gated."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from helpers import run_python
from helpers.cluster import cluster
from helpers.evaluation import Rule
from helpers.strangers import SOURCE, stranger
from helpers.verdict import small_bars
from himari_rl.cli import main
from himari_rl.data.surrogates import planted
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.data.table import write_bars
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.errors import BundleError, ConfigError, RefusedError, StorageError
from himari_rl.evaluation.backtest import BASE, POLICY, backtest, stage
from himari_rl.evaluation.record import BUNDLE, CURVES, DOCUMENT, read_curves
from himari_rl.experiments.adapters import RuleFactory
from himari_rl.experiments.config import WalkForwardConfig
from himari_rl.experiments.evaluate import evaluate
from himari_rl.experiments.run import WalkForwardRun, run_walk_forward, settings_of, walk_forward
from himari_rl.experiments.train_all import train_all
from himari_rl.experiments.walk_forward import REAL, plan
from himari_rl.policy.bundle import read_manifest
from himari_rl.policy.runtime import load_policy
from himari_rl.release.gate import gate
from himari_rl.release.report import report_page
from himari_rl.training.dask_cluster import dask_pool
from himari_rl.training.fan_out import local_pool

SMALL: dict[str, Any] = {"train": "20d", "test": "10d", "step": "10d", "purge_bars": 24, "seeds": 2}
ONCE = SMALL | {"seeds": 1, "folds": 1}


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return stranger(tmp_path_factory.mktemp("theirs"), "strangers_policy")


@pytest.fixture(scope="module")
def learned(theirs: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> WalkForwardRun:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        patch.setenv("HIMARI_TRIALS", str(tmp_path_factory.mktemp("trials") / "trials.sqlite"))  # its own looks alone
        return walk_forward(theirs.learns, small_bars(), out=tmp_path_factory.mktemp("run") / "run", **SMALL)


def bytes_of(run: Path) -> dict[str, bytes]:
    """Everything of a run that is the same however it came to be."""
    names = [DOCUMENT, CURVES, f"{BUNDLE}/manifest.json", f"{BUNDLE}/weights.safetensors"]
    folds = sorted(path.relative_to(run).as_posix() for path in (run / "folds").rglob("*.fold"))
    return {name: (run / name).read_bytes() for name in [*names, *folds]}


def test_it_is_fitted_for_every_fold_seed_and_twin_and_its_bundle_names_its_code(learned: WalkForwardRun) -> None:
    manifest = read_manifest(learned.bundle)
    assert (manifest.kind, manifest.seeds) == ("external", (0, 1))
    assert manifest.external is not None
    assert (manifest.external.name, manifest.external.kept) == ("strangers_policy:learns", "attributes")
    folds = sorted(path.name for path in (Path(learned.folder) / "folds").rglob("*.fold"))
    assert (
        len(folds) == 2 * 3 + 2 * 2
    )  # two seeds of two folds and the bundle's window; one seed of two folds and twins
    assert learned.document["kind"] == "external"
    assert "agent" not in learned.document["settings"]
    assert [control["name"] for control in learned.document["judgement"]["controls"]][:2] == ["driftless", "planted"]
    assert learned.document["judgement"]["verdict"]["trials"] == 1
    assert "learned nothing" not in str(learned)


def test_each_fold_is_fitted_on_its_own_training_rows_and_decides_only_after_them(
    theirs: ModuleType, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []

    def told(train: Any, seed: int) -> Any:
        seen.append((int(train.timestamp[0]), int(train.timestamp[-1])))
        return theirs.learns(train, seed)

    bars = small_bars()
    work = plan(bars, settings_of(told, None, TradingEnvConfig(), WalkForwardConfig(**(SMALL | {"seeds": (0,)}))))
    trained = train_all(work, tmp_path, None, parts=(REAL,))
    assert len(trained) == len(seen) == 3
    assert [last for _, last in seen[:2]] == [int(bars.timestamp[fold.train.stop - 1]) for fold in work.folds]
    assert all(int(bars.timestamp[fold.test.start]) > last for fold, (_, last) in zip(work.folds, seen, strict=False))


def test_a_run_that_was_cut_off_and_a_pool_and_two_dask_workers_give_the_same_bytes(
    theirs: ModuleType, learned: WalkForwardRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    whole, run = bytes_of(Path(learned.folder)), Path(learned.folder)
    for name in (DOCUMENT, CURVES, "folds/real/001-0.fold", "folds/driftless/000-0.fold"):
        (run / name).unlink()
    shutil.rmtree(run / BUNDLE)
    asked = settings_of(theirs.learns, None, TradingEnvConfig(), WalkForwardConfig(**(SMALL | {"seeds": (0, 1)})))
    run_walk_forward(small_bars(), asked, run, None)
    assert bytes_of(run) == whole
    work = plan(small_bars(), asked)
    folds = {name: data for name, data in whole.items() if name.endswith(".fold")}
    train_all(work, tmp_path / "pool", local_pool(2))
    with cluster(tmp_path) as (address, _):
        train_all(work, tmp_path / "dask", dask_pool(address))
    for place in ("pool", "dask"):
        found = {name: (tmp_path / place / name).read_bytes() for name in folds}
        assert found == folds


def test_an_edited_factory_is_not_taken_for_the_old_one(theirs: ModuleType, tmp_path: Path) -> None:
    module = stranger(tmp_path / "edited", "edited_policy")
    walk_forward(module.KEPT, small_bars(), out=tmp_path / "run", **ONCE)
    (tmp_path / "edited" / "edited_policy.py").write_text(SOURCE + "# another rule\n")
    with pytest.raises(StorageError, match="holds a walk-forward of other settings"):
        walk_forward(module.KEPT, small_bars(), out=tmp_path / "run", **ONCE)
    one, other = ({"factor": factor} for factor in (0.15, 0.3))

    def enclosing(given: dict[str, float]) -> Any:
        return lambda train, seed: given

    assert settings_of(enclosing(one), None, TradingEnvConfig(), WalkForwardConfig()).hash != (
        settings_of(enclosing(other), None, TradingEnvConfig(), WalkForwardConfig()).hash
    )


def test_a_changed_helper_of_the_factory_is_another_run_and_named_where_its_bundle_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from himari_rl.policy import code

    folder = tmp_path / "code"
    module = stranger(folder, "with_helper_policy")
    (folder / "sized_helper.py").write_text("SIZE = 1.0\n")
    (folder / "with_helper_policy.py").write_text("from sized_helper import SIZE\n" + SOURCE)
    asked = settings_of(module.learns, None, TradingEnvConfig(), WalkForwardConfig(**(ONCE | {"seeds": (0,)})))
    run = tmp_path / "run"
    run_walk_forward(small_bars(), asked, run, None)
    spec = read_manifest(run / BUNDLE).external
    assert spec is not None
    assert set(spec.modules) == {"sized_helper"}
    assert spec.packages == {"numpy": np.__version__}
    (folder / "sized_helper.py").write_text("SIZE = 2.0\n")
    again = settings_of(module.learns, None, TradingEnvConfig(), WalkForwardConfig(**(ONCE | {"seeds": (0,)})))
    with pytest.raises(StorageError, match=r"of other settings \(factory\.modules\.sized_helper\)"):
        run_walk_forward(small_bars(), again, run, None)
    monkeypatch.setattr(code, "_KNOWN", {})
    monkeypatch.setattr(code, "_TOLD", True)
    with pytest.raises(BundleError, match="its module sized_helper is sha256"):
        load_policy(run / BUNDLE)


def test_arrays_of_its_own_come_back_and_the_answer_is_the_seeds_mean(tmp_path: Path, theirs: ModuleType) -> None:
    run = walk_forward(theirs.KEPT, small_bars(), out=tmp_path / "run", **(SMALL | {"folds": 1}))
    policy = load_policy(run.bundle)
    assert policy.manifest.external is not None
    assert policy.manifest.external.kept == "arrays"
    np.testing.assert_allclose(policy.decide_batch(np.zeros((3, 16)))[0], 0.55)
    assert policy.decide(np.zeros(16)).spread == pytest.approx(0.05)


def test_what_cannot_be_kept_is_fitted_again_where_its_rows_are_and_refused_elsewhere(
    theirs: ModuleType, learned: WalkForwardRun, tmp_path: Path
) -> None:
    run = walk_forward(theirs.hidden, small_bars(), out=tmp_path / "run", **SMALL)
    manifest = read_manifest(run.bundle)
    assert manifest.external is not None
    assert manifest.external.kept == "refit"
    mine, same = (read_curves(each.folder)["multiplier"] for each in (run, learned))
    np.testing.assert_allclose(mine, same, atol=1e-5)  # one is asked bar by bar, the other for its bands
    folder = str(Path(sys.modules["strangers_policy"].__file__ or "").parent)
    code = "from himari_rl.policy.code import allow_code; from himari_rl.policy.runtime import load_policy; "
    code += f"allow_code(); load_policy({str(run.bundle)!r})"
    again = run_python(code, PYTHONPATH=f"{folder}:{':'.join(sys.path)}")
    assert "cannot be kept as arrays, and it was not fitted in this process" in again.stderr


def test_a_factory_that_forgets_its_seed_is_found_out(theirs: ModuleType, tmp_path: Path) -> None:
    asked = settings_of(
        theirs.forgets_its_seed, None, TradingEnvConfig(), WalkForwardConfig(**(SMALL | {"seeds": (0,)}))
    )
    work = plan(small_bars(), asked)
    trained = train_all(work, tmp_path, None, parts=(REAL,))
    from himari_rl.policy.external import remember

    one = trained[REAL, 0, 0]
    remember(one.manifest, 0, theirs.forgets_its_seed(None, 0))  # as another process would fit it
    with pytest.raises(BundleError, match="answers otherwise than when it was fitted"):
        one.policy.decide_batch(np.zeros((1, 16)))


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("answers_three", BundleError, "answers 3; expected multipliers from 0 to 2"),
        ("breaks", RefusedError, "failed on fold 0, seed 0, real rows: ValueError: no rows at all"),
        ("no_policy", RefusedError, "returned a float"),
    ],
)
def test_a_policy_that_is_none_is_refused_in_one_line(
    theirs: ModuleType, tmp_path: Path, name: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as refused:
        walk_forward(getattr(theirs, name), small_bars(), out=tmp_path / "run", **SMALL)
    assert "\n" not in str(refused.value)


def test_settings_that_would_shape_nothing_are_refused(theirs: ModuleType) -> None:
    from himari_rl.agents.config import PPOConfig

    with pytest.raises(ConfigError, match="leave `agent` out"):
        settings_of(theirs.learns, PPOConfig(), TradingEnvConfig(), WalkForwardConfig())
    with pytest.raises(ConfigError, match="warm_start"):
        settings_of(theirs.learns, None, TradingEnvConfig(), WalkForwardConfig(warm_start=True))


def test_memory_is_its_own_affair_in_a_backtest_and_refused_where_a_server_would_have_to_carry_it(
    theirs: ModuleType, tmp_path: Path
) -> None:
    run = walk_forward(theirs.remembers, small_bars(), out=tmp_path / "run", **(SMALL | {"folds": 1}))
    said = read_curves(run.folder)["multiplier"][:, 0]
    np.testing.assert_array_equal(said[:6], [0.5, 1.0, 0.5, 1.0, 0.5, 1.0])
    lines = {line.rule: line for line in gate(run.bundle).lines}
    assert not lines["ships"].passed
    with pytest.raises(BundleError, match="which a server cannot carry"):
        load_policy(run.bundle).decide(np.zeros(16))


def test_a_rule_is_judged_as_the_backtest_plays_it(theirs: ModuleType, tmp_path: Path) -> None:
    bars = small_bars()
    run = walk_forward(RuleFactory(theirs.steady), bars, out=tmp_path / "run", **(SMALL | {"seeds": 1}))
    work = plan(
        bars,
        settings_of(
            RuleFactory(theirs.steady), None, TradingEnvConfig(), WalkForwardConfig(**(SMALL | {"seeds": (0,)}))
        ),
    )
    ledger = read_manifest(run.bundle).ledger
    on = stage(bars[: work.stop_row], ledger, work.start_row)
    plain = Rule(lambda states, step: np.clip(theirs.steady(states.astype(np.float32).astype(float)), 0.0, 2.0))
    alone = backtest({POLICY: plain}, on, ledger, variants=(BASE,), rng=np.random.default_rng(0))
    np.testing.assert_allclose(read_curves(run.folder)["growth/policy"], alone.run(POLICY).log_growth, atol=1e-12)
    said = "This policy learned nothing, it is the same on every fold and twin"
    assert said in " ".join(str(run).split())
    lines = {line.rule: line for line in gate(run.bundle).lines}
    assert not lines["control: planted"].passed
    assert said in lines["control: planted"].why
    assert said in report_page(run.folder, gate(run.bundle))


def test_a_learner_that_finds_the_edge_passes_every_rule_of_the_gate(theirs: ModuleType, tmp_path: Path) -> None:
    market = planted(synthetic_bars(24 * 400, 0), np.random.default_rng(3), 0.15)
    spans = {"train": "100d", "test": "50d", "step": "50d", "seeds": 1, "accept": ["constant-columns"]}
    run = walk_forward(theirs.learns, replace(market, synthetic=False), out=tmp_path / "run", **spans)
    answer = gate(run.bundle, new_ledger=True, latency_ms=lambda bundle, manifest: 0.1)
    assert answer.passed, answer.reason
    nothing = run.document["judgement"]["controls"][0]
    assert (nothing["name"], nothing["passed"]) == ("driftless", True)


def test_from_the_command_line_by_name_with_json(theirs: ModuleType, tmp_path: Path, capsys: Any) -> None:
    write_bars(small_bars(), tmp_path / "BTC-USDT_1h.csv")
    file = Path(theirs.__file__ or "")
    common = ["--data", str(tmp_path / "BTC-USDT_1h.csv"), "--train", "20d", "--test", "10d", "--step", "10d"]
    common += [
        "--set",
        "walk_forward.purge_bars=24",
        "--seeds",
        "1",
        "--jobs",
        "1",
        "--out",
        str(tmp_path / "run"),
        "--json",
    ]
    assert main(["walk-forward", f"rule:{file}:steady", *common]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["settings"]["factory"]["name"] == "rule:strangers_policy:steady"
    assert read_manifest(tmp_path / "run" / BUNDLE).kind == "external"
    assert main(["walk-forward", "strangers_policy:steady", "--hidden-dim", "8", *common]) == 2
    assert "leave `agent` out" in capsys.readouterr().err
    assert main(["walk-forward", "nowhere_at_all:f", *common]) == 2
    assert "cannot be imported" in capsys.readouterr().err


def test_its_bundle_is_evaluated_on_later_bars_with_its_factory_fitted_again_on_the_twins(
    theirs: ModuleType, tmp_path: Path
) -> None:
    whole = small_bars(60)
    run = walk_forward(theirs.learns, whole[: 24 * 44], out=tmp_path / "run", **(SMALL | {"folds": 1}))
    found = evaluate(load_policy(run.bundle), whole)
    assert [control.name for control in found.controls] == ["driftless", "planted", "shuffled", "lag", "costs"]
    assert found.verdict.answer != "no_verdict"
