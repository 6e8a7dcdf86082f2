"""The gate: each rule refuses alone and cannot be outvoted; promotion asks it and is written down."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from helpers import ROOT
from helpers.bundle import make_bundle
from helpers.verdict import CONTROLS, accounts, edited, good_document, run_of
from himari_rl.cli import main
from himari_rl.errors import BundleError, ConfigError, RefusedError, StorageError
from himari_rl.evaluation.record import CURVES, DOCUMENT, seal
from himari_rl.policy.alias import read_alias
from himari_rl.policy.bundle import amend, read_manifest
from himari_rl.release.decision import FIXED, decide
from himari_rl.release.gate import GateAnswer, gate
from himari_rl.release.lines import line
from himari_rl.release.promotion import log_of, promote, read_log, rollback
from himari_rl.release.rules import GateRules, load_rules
from himari_rl.trials.ledger import Trials

Spoil = Callable[[pytest.MonkeyPatch], dict[str, Any]]
LSTM_RULES = ("LSTM over base", "LSTM surely over base")


def ask(bundle: Path, **options: Any) -> GateAnswer:
    return gate(bundle, GateRules(), **({"latency_ms": lambda bundle, manifest: 0.01} | options))


def test_a_policy_that_shows_everything_passes(tmp_path: Path) -> None:
    answer = ask(run_of(tmp_path))
    assert answer.passed, answer.reason
    assert all(line.why for line in answer.lines)
    assert len({line.rule for line in answer.lines}) == len(answer.lines)


def _number(name: str, **numbers: float) -> Spoil:
    """Numbers of a control with which it says no."""

    def spoil(patch: pytest.MonkeyPatch) -> dict[str, Any]:
        patch.setitem(CONTROLS, name, CONTROLS[name] | numbers)
        return {}

    return spoil


def _account(**changes: Any) -> Spoil:
    return lambda patch: changes


def _curves(name: str, change: Callable[[np.ndarray], np.ndarray], **account: float) -> Spoil:
    def spoil(patch: pytest.MonkeyPatch) -> dict[str, Any]:
        curves = accounts(**account)
        return {"curves": curves | {name: change(curves[name])}}

    return spoil


def _document(*path: Any, to: Any) -> Spoil:
    def spoil(patch: pytest.MonkeyPatch) -> dict[str, Any]:
        document = part = good_document()
        for step in path[:-1]:
            part = part[step]
        part[path[-1]] = to
        return {"document": document}

    return spoil


@pytest.mark.parametrize(
    ("rule", "spoil"),
    [
        ("Sharpe", _account(sharpe=0.99, one_sharpe=-1.0)),
        ("deflated Sharpe", _curves("growth/policy x2", np.array)),  # and 100 looks, below
        ("better than 1.0", _account(one_sharpe=1.6)),
        ("not below the best one-liner", _account(line_sharpe=4.0)),
        ("validation", _account(promised=2.1)),
        ("drawdown", _account(volatility=0.3)),
        ("action spread", _curves("multiplier", lambda sized: np.full_like(sized, 1.3))),
        ("saturation", _curves("multiplier", lambda sized: np.where(np.arange(len(sized)) % 100 < 96, 2.0, sized.T).T)),
        ("control: driftless", _number("driftless", utility_lower=0.01, deflated_sharpe=0.96)),
        ("control: planted", _number("planted", utility_lower=-0.01)),
        ("control: planted", _number("planted", power=0.94)),
        ("control: shuffled", _number("shuffled", left=0.2)),
        ("control: lag", _curves("return/policy lag", lambda late: 0.1 * late - 1e-4)),
        ("control: costs", _curves("growth/policy x3", lambda path: path + 1e-4)),
        ("leak test", _document("leaks", to=["signal_confidence: knows the next 1 return(s)"])),
        ("plausible Sharpe", _account(sharpe=4.5)),
        ("plausible utility", _number("planted", utility=0.05)),
        ("plausible columns", _document("implausible", to=["signal_confidence: correlation .18 with the next return"])),
        ("recorded data", _document("data", "synthetic", to=True)),
        ("evidence", _document("bundle", "model_version", to="base-ffffffffffff")),
    ],
)
def test_each_rule_refuses_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str, spoil: Spoil) -> None:
    monkeypatch.setenv("HIMARI_TRIALS", str(tmp_path / "t.sqlite"))
    bundle = run_of(tmp_path, **spoil(monkeypatch))
    if rule == "deflated Sharpe":
        with Trials() as ledger:
            for i in range(100):
                ledger.look("walk-forward", "BTC-USDT", 0, 1, f"{i}")
    answer = ask(bundle)
    assert [line.rule for line in answer.lines if not line.passed] == [rule], str(answer)
    assert answer.reason == f"refused by {rule}"


def test_a_weak_planted_edge_does_not_bound_what_an_honest_column_may_earn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long history plants an edge of .05; a policy that earns more is held against the strongest honest edge."""
    for honest, passed in ((0.06, False), (10.0, True)):
        bundle = run_of(tmp_path / f"{honest}", **_number("planted", utility=0.05, honest=honest)(monkeypatch))
        [found] = [line for line in ask(bundle).lines if line.rule == "plausible utility"]
        assert found.passed == passed
        assert found.threshold == honest


def as_the_one_liner(cost: float) -> dict[str, np.ndarray]:
    """Curves of a policy that is the best one-liner, less a constant cost a bar."""
    curves = accounts(line_sharpe=2.5)
    earned = curves["growth/banded 15 % portfolio"], curves["return/banded 15 % portfolio"]
    for kind, path in zip(("growth", "return"), earned, strict=True):
        curves[f"{kind}/banded 15 % volatility"] = path
    growth = earned[0] - cost
    curves |= {"growth/policy": growth, "return/policy": earned[1], "equity/policy": growth.cumsum()}
    return curves | {f"growth/policy x{k}": growth - 1e-5 * k for k in (2, 3)}


@pytest.mark.parametrize(("cost", "passed"), [(0.0, True), (1e-7, False), (3e-5, False)])
def test_the_one_liner_itself_is_not_below_it_and_less_a_constant_cost_it_is(
    tmp_path: Path, cost: float, passed: bool
) -> None:
    """The rule's negative control: however small the cost, it is paid for certain at every bar."""
    answer = ask(run_of(tmp_path, curves=as_the_one_liner(cost)))
    [found] = [line for line in answer.lines if line.rule == "not below the best one-liner"]
    assert found.passed == passed
    assert found.number == pytest.approx(-1460.0 * cost, rel=1e-4, abs=1e-9)  # what is certain has no interval
    assert ("not below the best one-liner" in answer.reason) != passed
    assert "15 % volatility, chosen on training rows" in found.why


def test_the_rival_is_the_best_on_training_rows_whatever_was_best_on_the_judged_ones(tmp_path: Path) -> None:
    """The weaker one-liner of the judged rows is the rival where the training rows prefer it."""
    curves = accounts(line_sharpe=4.0)
    for kind in ("growth", "return"):
        curves[f"{kind}/15 % volatility"] = accounts(line_sharpe=0.5)[f"{kind}/banded 15 % volatility"]
    assert "not below the best one-liner" in ask(run_of(tmp_path / "a", curves=dict(curves))).reason
    curves["one-liner/15 % volatility"] = np.full(1000, 1e-5, np.float32)
    bundle = run_of(tmp_path / "b", curves=curves)
    answer = ask(bundle)
    said = next(line.why for line in answer.lines if line.rule == "evidence")
    assert "best one-liner: the document says banded 15 % volatility, the training rows 15 % volatility" in said
    [found] = [line for line in answer.lines if line.rule == "not below the best one-liner"]
    assert found.passed


def portfolio_run(folder: Path, shares: list[float]) -> Path:
    """A portfolio's walk-forward that holds these shares of its equity at every bar, beside equal weight."""
    curves = accounts()
    rows = len(curves["fill_time"])
    curves |= {"growth/equal weight": curves["growth/policy"], "exposure/equal weight": np.full((rows, 3), 1 / 3)}
    return run_of(folder, kind="multi", curves=curves | {"exposure": np.tile(shares, (rows, 1))})


def test_a_portfolio_is_asked_for_its_concentration_and_for_every_assets_share(tmp_path: Path) -> None:
    answer = ask(portfolio_run(tmp_path / "a", [0.2, 0.2, 0.2]))
    assert answer.passed, answer.reason
    lines = {line.rule: line for line in ask(portfolio_run(tmp_path / "b", [0.45, 0.36, 0.09])).lines}
    index = lines["Herfindahl index"]
    assert index.passed
    for number in (index.number, index.lower, index.upper):
        assert number == pytest.approx(0.5**2 + 0.4**2 + 0.1**2)
    assert "minus equal weight +0.09 (+0.09 to +0.09)" in index.why  # .42 minus a third
    shares = [line for rule, line in lines.items() if rule.startswith("share of")]
    assert [line.number for line in shares] == pytest.approx([0.5, 0.4, 0.1])
    assert [line.passed for line in shares] == [True, True, False]
    alone = {line.rule: line.passed for line in ask(portfolio_run(tmp_path / "c", [0.9, 0.05, 0.0])).lines}
    assert not alone["Herfindahl index"]
    idle = ask(portfolio_run(tmp_path / "d", [0.0, 0.0, 0.0]))
    assert sum(not line.passed for line in idle.lines) == 4  # the index and three shares


def test_a_number_that_is_not_one_passes_no_rule(tmp_path: Path) -> None:
    assert not line("Sharpe", float("nan"), ">", 1.0, "").passed
    assert not line("Sharpe", float("nan"), "<=", 1.0, "").passed
    bundle = edited(run_of(tmp_path), "judgement", "verdict", "own", "sharpe", "estimate", to=float("nan"))
    assert ask(bundle).reason == "refused by evidence"


def test_a_slow_bundle_is_refused(tmp_path: Path) -> None:
    bundle = run_of(tmp_path)
    assert ask(bundle, latency_ms=lambda bundle, manifest: 1.5).reason == "refused by latency ms"
    assert gate(bundle, GateRules(max_latency_ms=1_000.0)).passed  # the real clock, on whatever machine this is
    [line] = [line for line in gate(bundle, GateRules()).lines if line.rule == "latency ms"]
    assert 0.0 < line.number < 1_000.0


def test_a_suspected_leak_passes_only_with_a_written_reason(tmp_path: Path) -> None:
    document = good_document()
    document["leaks"] = ["signal_confidence: knows the next 1 return(s)"]
    bundle = run_of(tmp_path, document)
    answer = ask(bundle, leak_reason="the vendor stamps closes")
    assert answer.passed
    assert ask(bundle, leak_reason="  ").reason == "refused by leak test"
    assert "the vendor stamps closes" in next(line.why for line in answer.lines if line.rule == "leak test")
    assert main(["promote", "champion", str(bundle), "--folder", str(tmp_path)]) == 1
    said = ["--accept-leak", "the vendor stamps closes"]
    assert main(["promote", "champion", str(bundle), "--folder", str(tmp_path), *said]) == 0
    assert main(["decide", "--base", str(bundle)]) == 1
    assert main(["decide", "--base", str(bundle), *said]) == 0
    log = read_log(str(tmp_path / "champion.json"))
    assert [event["exceptions"] for event in log] == [["leak accepted: the vendor stamps closes"]] * 2


def test_a_threshold_of_ones_own_is_written_down(tmp_path: Path) -> None:
    bundle = run_of(tmp_path, sharpe=0.95, one_sharpe=-1.0)
    lax = tmp_path / "lax.yaml"
    lax.write_text("min_sharpe: 0.5\n")
    assert main(["promote", "champion", str(bundle), "--folder", str(tmp_path)]) == 1
    assert main(["promote", "champion", str(bundle), "--folder", str(tmp_path), "--rules", str(lax)]) == 0
    assert read_log(str(tmp_path / "champion.json"))[-1]["exceptions"] == ["min_sharpe 0.5, usually 1"]


def test_the_challenger_must_beat_the_champion_on_the_same_bars(tmp_path: Path) -> None:
    champion = run_of(tmp_path / "champion")
    better = run_of(tmp_path / "better", sharpe=2.3)
    worse = run_of(tmp_path / "worse", sharpe=1.7)
    assert ask(better, champion=champion).passed
    assert ask(worse, champion=champion).reason == "refused by over the champion"


def test_an_lstm_needs_more_than_the_base(tmp_path: Path) -> None:
    base = run_of(tmp_path / "base")
    little = run_of(tmp_path / "little", sharpe=2.1, kind="lstm")  # .1 more than the base's, and too little
    enough = run_of(tmp_path / "enough", sharpe=2.3, kind="lstm")
    assert ask(little, champion=base).reason == "refused by LSTM over base"
    assert ask(enough, champion=base).passed
    assert ask(enough).reason == "refused by LSTM over base"  # without a base to compare with
    # nor is a weak LSTM a base, however far it is beaten
    weak = run_of(tmp_path / "weak", sharpe=1.7, kind="lstm")
    assert ask(enough, champion=weak).reason == "refused by LSTM over base"


def test_a_champion_is_a_bundle_that_its_walk_forward_wrote(tmp_path: Path) -> None:
    bundle = run_of(tmp_path / "a", sharpe=2.3)
    with pytest.raises(BundleError, match="no policy bundle"):
        ask(bundle, champion=run_of(tmp_path / "b").parent / "nothing")
    other = good_document() | {"bundle": {"model_version": "base-ffffffffffff"}}
    with pytest.raises(BundleError, match="did not write the champion"):
        ask(bundle, champion=run_of(tmp_path / "c", other))


def test_an_lstms_gain_over_the_base_has_to_exclude_zero(tmp_path: Path) -> None:
    base = run_of(tmp_path / "base")
    # with a noise as large as the rest of it, a path of variance 1 + 1 + 2 correlates with the base's by .71: over four
    # years the difference of their ratios has an error of sqrt(2 (1 - .71) / 4) = .38
    wild = run_of(tmp_path / "wild", sharpe=2.4, noise=2.0**0.5, kind="lstm")
    calm = run_of(tmp_path / "calm", sharpe=2.4, kind="lstm")
    gain, sure = (next(line for line in ask(wild, champion=base).lines if line.rule == rule) for rule in LSTM_RULES)
    assert (gain.passed, sure.passed) == (True, False)
    assert gain.lower == sure.number < 0.0 < 0.2 < gain.number
    assert ask(wild, champion=base).reason == "refused by LSTM surely over base"
    assert ask(calm, champion=base).passed


def test_walk_forwards_of_other_bars_cannot_be_compared(tmp_path: Path) -> None:
    bundle, champion = (run_of(tmp_path / name) for name in "ab")
    edited(champion, "symbols", to=["ETH-USDT"])
    with pytest.raises(ConfigError, match="share"):
        ask(bundle, champion=champion)


def test_the_rules_in_config_are_the_built_in_ones_and_a_typo_is_refused(tmp_path: Path) -> None:
    assert load_rules(ROOT / "config" / "gates.yaml") == GateRules()
    for text, words in (
        ("min_sharp: 1", "min_sharp"),
        ("[1]", "mapping"),
        ("min_sharpe: high", "'high'; expected a number"),
        ("min_sharpe: -.inf", "a finite number"),
        ("{", "YAML"),
    ):
        (tmp_path / "gates.yaml").write_text(text)
        with pytest.raises(ConfigError, match=words):
            load_rules(tmp_path / "gates.yaml")


def test_the_command_answers_0_and_1_and_one_json_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes = []
    for sharpe in (2.0, 0.2):
        codes.append(main(["gate", str(run_of(tmp_path / f"{sharpe}", sharpe=sharpe)), "--json"]))
        answer = json.loads(capsys.readouterr().out)
        assert answer["passed"] is (codes[-1] == 0)
    assert codes == [0, 1]
    assert main(["gate", str(make_bundle(tmp_path / "alone", hidden=(4,)))]) == 1  # no evidence at all: refused
    assert "evidence" in capsys.readouterr().out


def test_promotion_needs_a_passed_gate_or_a_reason_and_both_are_logged(tmp_path: Path) -> None:
    alias = str(tmp_path / "aliases" / "champion.json")
    first, second = run_of(tmp_path / "a"), run_of(tmp_path / "b", weights=1, sharpe=0.2)
    promote(alias, str(first), ask(first))
    for reason in (None, "", "  "):
        with pytest.raises(RefusedError, match="override"):
            promote(alias, str(second), ask(second), override=reason)
    assert read_alias(alias).bundle == str(first)
    moved = promote(alias, str(second), ask(second), override="a drill")
    assert (moved.bundle, moved.step) == (str(second), 2)
    assert rollback(alias, "drill over").bundle == str(first)
    log = [(event["event"], event["state"], event.get("override")) for event in read_log(alias)]
    assert log == [
        ("promote", "asked", None), ("promote", "done", None), ("promote", "asked", "a drill"),
        ("promote", "done", "a drill"), ("rollback", "asked", "drill over"), ("rollback", "done", "drill over"),
    ]  # fmt: skip


def test_a_judgement_that_somebody_edited_is_no_evidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A refused run made rosy: another judgement, half of it, none, no text, other curves."""
    good = (run_of(tmp_path / "good").parent / DOCUMENT).read_bytes()
    for index, (name, text) in enumerate(
        [
            (DOCUMENT, good),
            (DOCUMENT, good[:200]),
            (DOCUMENT, b"[]"),
            (DOCUMENT, b"\xff\xfe"),
            (CURVES, b"nothing"),
        ]
    ):
        bundle = run_of(tmp_path / str(index), sharpe=0.9, one_sharpe=-1.0)
        assert ask(bundle).reason == "refused by Sharpe"
        (bundle.parent / name).write_bytes(text)
        for words in (["gate", str(bundle)], ["promote", "champion", str(bundle)], ["report", str(bundle.parent)]):
            assert main(words) == 2
            line = capsys.readouterr().err
            assert name in line
            assert line.count("\n") == 1


def test_a_judgement_without_its_controls_is_refused(tmp_path: Path) -> None:
    bundle = run_of(tmp_path)
    kept = json.loads((tmp_path / DOCUMENT).read_text())["judgement"]["controls"][2:]
    assert (
        ask(edited(bundle, "judgement", "controls", to=kept)).reason
        == "refused by control: driftless, control: planted"
    )


def test_a_policy_with_the_weights_and_another_normaliser_was_never_judged(tmp_path: Path) -> None:
    bundle = run_of(tmp_path)
    normaliser = read_manifest(bundle).normaliser.model_dump(mode="json")
    amend(bundle, normaliser=normaliser | {"mean": [value + 5.0 for value in normaliser["mean"]]})
    assert ask(bundle).reason == "refused by evidence, parity"


def test_looks_after_the_judgement_deflate_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of a hundred runs was deflated for one look, and was the one to promote."""
    monkeypatch.setenv("HIMARI_TRIALS", str(tmp_path / "t.sqlite"))
    bundle = run_of(tmp_path / "run")  # a Sharpe ratio of 2 over four years: four standard errors
    assert ask(bundle).passed
    with Trials() as ledger:
        for i in range(100):
            ledger.look("walk-forward", "BTC-USDT", 0, 1, f"{i}")
    answer = ask(bundle)
    assert answer.reason == "refused by deflated Sharpe"
    assert "100 looks" in next(line.why for line in answer.lines if line.rule == "deflated Sharpe")


def test_a_champion_of_other_bars_signals_or_costs_cannot_be_compared(tmp_path: Path) -> None:
    bundle, champion = (run_of(tmp_path / name) for name in "ab")
    assert ask(bundle, champion=champion).reason == "refused by over the champion"  # the control: no better than itself
    curves = load((champion.parent / CURVES).read_bytes())
    curves["growth/multiplier 1.0"] = curves["growth/multiplier 1.0"] + 1e-6
    (champion.parent / CURVES).write_bytes(save(curves))
    amend(champion, evaluation=seal(champion.parent))
    with pytest.raises(ConfigError, match="the same bars, signals and costs"):
        ask(bundle, champion=champion)


def test_decide_takes_each_kind_in_its_own_place(tmp_path: Path) -> None:
    bundle = str(run_of(tmp_path))
    assert main(["decide", "--base", bundle]) == 0
    assert main(["decide", "--base", bundle, "--multi", bundle]) == 2


@pytest.mark.parametrize(("one_sharpe", "use"), [(0.7, "Use multiplier 1.0."), (-1.0, "Use cash.")])
def test_decide_says_cash_where_one_lost_and_nothing_passes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], one_sharpe: float, use: str
) -> None:
    bundle = str(run_of(tmp_path, sharpe=0.8, one_sharpe=one_sharpe))
    assert main(["decide", "--base", bundle]) == 1
    said = capsys.readouterr().out
    assert said.rstrip().endswith(use)
    assert ("keep 1.0" in said) == (one_sharpe > 0)
    assert ("cash was better" in said) == (one_sharpe < 0)


def test_an_answer_about_other_weights_promotes_nothing(tmp_path: Path) -> None:
    first = run_of(tmp_path / "a")
    second = run_of(tmp_path / "b", weights=1)
    with pytest.raises(BundleError, match="another policy"):
        promote(str(tmp_path / "champion.json"), str(second), ask(first))
    assert not (tmp_path / "champion.json").exists()


@pytest.mark.parametrize("left", [0, 2, 3])
def test_a_log_that_lost_its_end_stops_a_promotion_and_not_a_rollback(tmp_path: Path, left: int) -> None:
    alias = str(tmp_path / "champion.json")
    first, second = (run_of(tmp_path / name, weights=i) for i, name in enumerate("ab"))
    for bundle in (first, second):
        promote(alias, str(bundle), ask(bundle))
    lines = log_of(alias).read_text().splitlines(keepends=True)
    log_of(alias).write_text("".join(lines[:left]))
    with pytest.raises(RefusedError, match="is at step 2"):
        promote(alias, str(first), ask(first))
    assert rollback(alias).bundle == str(first)
    assert "is at step 2" in read_log(alias)[-1]["exceptions"][0]
    assert promote(alias, str(second), ask(second)).bundle == str(second)  # the log is whole again


@pytest.mark.parametrize(
    ("damage", "named"), [("cut", "changed: row 2 was changed"), ("edit", "changed: one of the rows 1 to 1")]
)
def test_a_log_that_somebody_changed_is_refused(tmp_path: Path, damage: str, named: str) -> None:
    alias = str(tmp_path / "champion.json")
    bundle = run_of(tmp_path / "a")
    promote(alias, str(bundle), ask(bundle))
    promote(alias, str(bundle), ask(bundle))
    lines = log_of(alias).read_text().splitlines(keepends=True)
    changed = lines[:1] + lines[2:] if damage == "cut" else [lines[0].replace("asked", "moved"), *lines[1:]]
    log_of(alias).write_text("".join(changed))
    with pytest.raises(StorageError, match=named):
        promote(alias, str(bundle), ask(bundle))


def test_the_decision_tree_stops_at_the_first_kind_that_is_not_worth_it() -> None:
    def answer(kind: str, passed: bool) -> GateAnswer:
        return GateAnswer(bundle=kind, version=kind, weights_sha256="", passed=passed, lines=(), reason="because")

    def use(**passed: bool | None) -> str:
        return decide({k: None if p is None else answer(k, p) for k, p in passed.items()}).use

    assert use(base=False, lstm=True, multi=True) == FIXED
    assert use(base=None, lstm=None, multi=None) == FIXED
    lost = replace(answer("base", False), instead="cash was better", statements=("1.0 against cash: cash was better.",))
    choice = decide({"base": lost})
    assert (choice.use, choice.bundle) == ("cash", None)
    assert choice.steps[1:] == (
        "1.0 against cash: cash was better.",
        "without a base that passes, neither memory nor a portfolio is worth its complexity: cash was better",
    )
    assert use(base=True, lstm=False, multi=None) == "base"
    assert use(base=True, lstm=True, multi=False) == "lstm"
    assert use(base=True, lstm=False, multi=True) == "multi"
