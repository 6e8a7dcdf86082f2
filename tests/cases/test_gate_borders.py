"""Evidence that somebody edited by hand, with every digest made anew: refused, each by the name of what was edited."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from helpers.verdict import accounts, edited, good_document, run_of
from himari_rl.cli import main
from himari_rl.errors import BundleError, StorageError
from himari_rl.evaluation.control import control
from himari_rl.evaluation.record import CURVES, seal
from himari_rl.policy.bundle import amend, read_manifest
from himari_rl.release.gate import GateAnswer, gate
from himari_rl.release.promotion import read_log
from himari_rl.release.rules import GateRules

VERDICT = ("judgement", "verdict")
LEAK, STRONG = "signal_confidence: changes at 00:00 UTC and knows the rest of the day", "signal_confidence: too strong"


def ask(bundle: Path, **options: Any) -> GateAnswer:
    return gate(bundle, GateRules(), latency_ms=lambda bundle, manifest: 0.01, **options)


def said(answer: GateAnswer, rule: str = "evidence") -> str:
    [line] = [line for line in answer.lines if line.rule == rule]
    return line.why


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HIMARI_TRIALS", str(tmp_path / "t.sqlite"))
    return run_of(tmp_path / "run")


def test_what_nobody_edited_is_evidence(bundle: Path) -> None:
    """The control of this file, and the page says who was judged and who ships."""
    answer = ask(bundle)
    assert answer.passed, answer.reason
    assert "judged: the policies of 1 fold" in said(answer)
    assert f"ships: {answer.version}, 1 seed" in said(answer)


@pytest.mark.parametrize(
    ("path", "to", "words"),
    [
        ((*VERDICT, "own", "sharpe", "estimate"), 2.4, "Sharpe: the document says 2.4, the curves give 2"),
        ((*VERDICT, "own", "sharpe", "lower"), 1.6, "Sharpe, lower bound: the document says 1.6"),
        ((*VERDICT, "own", "drawdown", "estimate"), 0.05, "drawdown: the document says 0.05"),
        ((*VERDICT, "utility", "estimate"), 0.3, "paired difference in utility: the document says 0.3"),
        ((*VERDICT, "utility", "lower"), 0.15, "paired difference in utility, lower bound: the document says 0.15"),
        ((*VERDICT, "growth", "estimate"), 0.5, "paired difference in growth: the document says 0.5"),
        ((*VERDICT, "deflated_sharpe"), 0.5, "deflated difference: the document says 0.5"),
        (("judgement", "own_deflated_sharpe"), 0.9, "deflated Sharpe: the document says 0.9"),
        (("judgement", "training_gain"), 0.1, "advantage on training rows: the document says 0.1"),
        ((*VERDICT, "spread"), 0.9, "action spread: the document says 0.9"),
        ((*VERDICT, "bars_per_year"), 2920.0, "bars of a year: the document says 2920"),
        ((*VERDICT, "decisions"), 9000, "decisions: the document says 9000"),
        ((*VERDICT, "risk_aversion"), 0.0, "risk aversion: the document says 0"),
        ((*VERDICT, "trials"), 0, "no count of looks"),
        (("span", "last_ms"), 1, "span: the document's is not that of the fills"),
        (("folds", 0, "growth", "policy"), 1.0, "growth of the folds, policy: the document says 1"),
        (("judgement", "controls", 0, "passed"), False, "control driftless: the document says refused, its numbers"),
        (("judgement", "controls", 1, "sentence"), "All is well.", "control planted: its sentence is not that of its"),
        (
            ("judgement", "controls", 2, "numbers", "left"),
            9.0,
            "control shuffled: the document says passed, its numbers",
        ),
        (("judgement", "controls", 2, "numbers", "gain"), 9.0, "control shuffled, gain: the document says 9"),
        (("judgement", "controls", 3, "numbers", "sharpe"), 0.5, "control lag, sharpe: the document says 0.5"),
        (("judgement", "controls", 4, "numbers", "x3"), 0.5, "control costs, x3: the document says 0.5"),
        (("judgement", "controls", 0, "numbers"), {}, "control driftless: its numbers are missing"),
        (
            (*VERDICT, "less", "best one-liner", "utility", "upper"),
            0.5,
            "utility less the best one-liner's, upper bound: the document says 0.5",
        ),
        (
            (*VERDICT, "less", "best one-liner", "sharpe", "estimate"),
            0.5,
            "Sharpe less the best one-liner's: the document says 0.5",
        ),
        (
            (*VERDICT, "less", "cash", "utility", "lower"),
            0.5,
            "utility less cash's, lower bound: the document says 0.5",
        ),
        ((*VERDICT, "one", "utility", "estimate"), 0.5, "utility of multiplier 1.0: the document says 0.5"),
        ((*VERDICT, "one_liner"), "15 % volatility", "best one-liner: the document says 15 % volatility, the training"),
        (
            (*VERDICT, "statements", 1),
            "Better than the one-liner: yes.",
            "statements: they are not those of its numbers",
        ),
        (("symbols",), ["ETH-USDT"], "the document is of ['ETH-USDT'], the bundle of ['BTC-USDT']"),
    ],
)
def test_a_figure_edited_by_hand_is_named(bundle: Path, path: tuple[Any, ...], to: Any, words: str) -> None:
    answer = ask(edited(bundle, *path, to=to))
    assert "evidence" in answer.reason
    assert words in said(answer)


def test_curves_whose_one_liners_are_missing_or_of_other_folds_are_one_line(bundle: Path) -> None:
    curves = load((bundle.parent / CURVES).read_bytes())
    without = {k: v for k, v in curves.items() if k != "one-liner/15 % volatility"}
    later = curves | {"one-liner/rows": np.array([[0, 1000, 7]])}
    for spoiled, words in ((without, "lacks 'one-liner/15 % volatility'"), (later, "not of its 5840 decisions")):
        (bundle.parent / CURVES).write_bytes(save(spoiled))
        amend(bundle, evaluation=(read_manifest(bundle).evaluation or {}) | seal(bundle.parent))
        with pytest.raises(StorageError, match=words):
            ask(bundle)


def test_statements_are_the_gates_own_and_a_failed_control_takes_yes_away(bundle: Path) -> None:
    said = ask(bundle).statements
    assert [each.split(":")[0].split(" (")[0] for each in said] == [
        "Better than 1.0", "Better than the one-liner", "Better than cash", "1.0 against cash",
    ]  # fmt: skip
    assert ": yes. Utility" in said[0]
    numbers = {"utility": 0.3, "utility_lower": 0.1, "sharpe": 3.0, "deflated_sharpe": 0.99, "look_ahead": 0.0}
    edited(bundle, "judgement", "controls", 0, to=control("driftless", numbers).to_dict())
    assert all("yes" not in each for each in ask(bundle).statements)
    assert "not shown (a control failed (driftless))" in ask(bundle).statements[0]


def test_an_edit_to_rosy_figures_moves_no_line(tmp_path: Path) -> None:
    """A poor run with the figures of a good one: it is judged by its curves all the same."""
    poor = run_of(tmp_path, sharpe=0.3)
    for name in ("estimate", "lower", "upper"):
        edited(poor, *VERDICT, "own", "sharpe", name, to=2.0)
        edited(poor, *VERDICT, "utility", name, to=0.2)
    edited(poor, "judgement", "own_deflated_sharpe", to=0.99)
    reason = ask(poor).reason
    for rule in ("evidence", "Sharpe", "deflated Sharpe", "better than 1.0"):
        assert rule in reason


def test_a_control_made_to_pass_with_its_sentence_fails_by_its_numbers(bundle: Path) -> None:
    numbers = {"utility": 0.3, "utility_lower": 0.1, "sharpe": 3.0, "deflated_sharpe": 0.99, "look_ahead": 0.0}
    failed = control("driftless", numbers).to_dict()
    rosy = failed | {"passed": True, "sentence": failed["sentence"].replace("NOT ", "")}
    assert ask(edited(bundle, "judgement", "controls", 0, to=failed)).reason == "refused by control: driftless"
    assert ask(edited(bundle, "judgement", "controls", 0, to=rosy)).reason == "refused by evidence, control: driftless"


def test_half_a_document_or_curves_without_what_is_needed_are_one_line(bundle: Path) -> None:
    curves = load((bundle.parent / CURVES).read_bytes())
    edited(bundle, "judgement", to={})
    with pytest.raises(StorageError, match="has no"):
        ask(bundle)
    (bundle.parent / CURVES).write_bytes(save({k: v for k, v in curves.items() if k != "return/policy"}))
    amend(bundle, evaluation=seal(bundle.parent))
    with pytest.raises(StorageError, match="lacks return/policy"):
        ask(bundle)


def test_the_bundle_that_ships_is_asked_itself(tmp_path: Path) -> None:
    """A collapsed bundle behind judged policies that did not collapse, and one that answers otherwise than exported."""
    constant = run_of(tmp_path / "constant", head="squash", scale=0.0)
    answer = ask(constant)
    assert answer.reason == "refused by action spread"
    assert "the bundle that ships 0 on its newest 200 decisions, the judged policies 0.559" in said(
        answer, "action spread"
    )
    other = run_of(tmp_path / "other")
    curves = load((other.parent / CURVES).read_bytes())
    curves["shipped/multiplier"] = curves["shipped/multiplier"] + 1e-3
    (other.parent / CURVES).write_bytes(save(curves))
    amend(other, evaluation=seal(other.parent))
    assert ask(other).reason == "refused by parity"


# too good -------------------------------------------------------------------------------------------------------------


def test_what_is_too_good_is_refused_until_somebody_says_why_it_is_true(tmp_path: Path) -> None:
    bundle = run_of(tmp_path / "run", sharpe=4.5)
    answer = ask(bundle)
    assert answer.reason == "refused by plausible Sharpe"
    assert said(answer, "plausible Sharpe").startswith("too good: look for a leak")
    assert ask(bundle, implausible_reason="  ").reason == "refused by plausible Sharpe"
    taken = ask(bundle, implausible_reason="a market maker's rebate")
    assert taken.passed
    assert taken.exceptions == ("implausible accepted (plausible Sharpe): a market maker's rebate",)
    words = ["promote", "champion", str(bundle), "--folder", str(tmp_path), "--set", "gate.max_latency_ms=1000"]
    assert main(words) == 1
    assert main([*words, "--accept-implausible", "a market maker's rebate"]) == 0
    assert taken.exceptions[0] in read_log(str(tmp_path / "champion.json"))[-1]["exceptions"]


def test_the_acceptance_never_passes_what_a_named_test_has_caught(tmp_path: Path) -> None:
    both = good_document() | {"leaks": [LEAK], "implausible": [STRONG]}
    bundle = run_of(tmp_path, both, sharpe=4.5)
    assert ask(bundle).reason == "refused by leak test, plausible Sharpe, plausible columns"
    answer = ask(bundle, implausible_reason="I know it")
    assert answer.reason == "refused by leak test"
    assert LEAK in said(answer, "leak test")


def test_an_implausible_column_is_accepted_by_the_same_words_and_nothing_is_written_where_nothing_was(
    tmp_path: Path, bundle: Path
) -> None:
    strong = run_of(tmp_path / "strong", good_document() | {"implausible": [STRONG]})
    assert ask(strong).reason == "refused by plausible columns"
    assert f"too good: look for a leak; {STRONG}" in said(ask(strong), "plausible columns")
    assert ask(strong, implausible_reason="my own model of the book").passed
    assert ask(bundle, implausible_reason="not needed").exceptions == ()


# whose evidence -------------------------------------------------------------------------------------------------------


def test_evidence_counts_only_from_the_signer(tmp_path: Path, bundle: Path) -> None:
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    for name in ("ours", "theirs"):
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
        public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / f"{name}.pem").write_bytes(private)
        (tmp_path / f"{name}.pub").write_bytes(public)
    ours = tmp_path / "ours.pub"
    with pytest.raises(BundleError, match="not signed"):
        ask(bundle, signer=ours)
    assert main(["sign", str(bundle), "--key", str(tmp_path / "theirs.pem")]) == 0
    with pytest.raises(BundleError, match="not of this server's key"):
        ask(bundle, signer=ours)
    assert main(["sign", str(bundle), "--key", str(tmp_path / "ours.pem")]) == 0
    assert ask(bundle, signer=ours).passed
    curves = load((bundle.parent / CURVES).read_bytes()) | accounts(sharpe=2.8)  # curves and figures of another run
    (bundle.parent / CURVES).write_bytes(save({k: np.ascontiguousarray(v) for k, v in curves.items()}))
    amend(bundle, evaluation=(read_manifest(bundle).evaluation or {}) | seal(bundle.parent))
    with pytest.raises(BundleError, match="not signed"):
        ask(bundle, signer=ours)
    assert main(["gate", str(bundle), "--signer", str(ours)]) == 2
