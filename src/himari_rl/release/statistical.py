"""The rules that need nothing but a walk-forward's document: its numbers, its controls, its leaks, its plausibility."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from himari_rl.evaluation.control import NAMES
from himari_rl.evaluation.one_liners import BEST
from himari_rl.evaluation.portfolio_baselines import EQUAL
from himari_rl.evaluation.statements import BETTER_THAN_ONE
from himari_rl.release.lines import Line, fails, line
from himari_rl.release.rules import GateRules

NOT_BELOW = f"not below the {BEST}"
TOO_GOOD = "too good: look for a leak"


def statistical_lines(
    document: Mapping[str, Any], rules: GateRules, implausible_reason: str | None = None
) -> list[Line]:
    """Those rules; benchmarks/gate_noise.py and gate_curve.py ask these of noise.

    Args:
        implausible_reason: of an edge that is stronger than any honest one because somebody planted it.
    """
    verdict = document["judgement"]["verdict"]
    asked = [*numbers(document, rules), *sizing(verdict["spread"], verdict["saturation"], rules)]
    return [*asked, *controls(document), *leaks(document, None), *plausible(document, rules, implausible_reason)]


def numbers(document: Mapping[str, Any], rules: GateRules) -> list[Line]:
    judgement = document["judgement"]
    verdict = judgement["verdict"]
    multi = document["kind"] == "multi"
    own, utility = verdict["own"], verdict["utility"]
    least = rules.min_portfolio_sharpe if multi else rules.min_sharpe
    gain, training = utility["estimate"], judgement["training_gain"]
    retained = gain / training if training > 0.0 else 0.0
    scale = 1.0 / training if training > 0.0 else 0.0
    kept = {"lower": utility["lower"] * scale, "upper": utility["upper"] * scale}
    trials = verdict["trials"]
    why = "a year, out of sample"
    if EQUAL in verdict["less"]:
        why += f"; {minus_equal(verdict['less'][EQUAL]['sharpe'])}"
    return [
        line("portfolio Sharpe" if multi else "Sharpe", own["sharpe"]["estimate"], ">", least, why, own["sharpe"]),
        line(
            "deflated Sharpe",
            judgement["own_deflated_sharpe"],
            ">",
            rules.min_deflated_sharpe,
            f"chance of a true Sharpe ratio above 0, given {trials} look{'s' * (trials > 1)} at this span",
        ),
        line(
            BETTER_THAN_ONE,
            utility["lower"],
            ">",
            0.0,
            f"paired utility a year {utility['estimate']:+.3f}; its 95 % interval must exclude 0",
            utility,
        ),
        not_below(verdict, rules),
        line("validation", retained, ">=", rules.min_retained, "out-of-sample share of the training advantage", kept),
        line(
            "drawdown",
            own["drawdown"]["estimate"],
            "<",
            rules.max_drawdown,
            "deepest fall, marked at closes",
            own["drawdown"],
        ),
    ]


def not_below(verdict: Mapping[str, Any], rules: GateRules) -> Line:
    """Whether the policy is surely worse than one line of code, the best one by its folds' training rows."""
    if BEST not in verdict["less"]:
        return fails(NOT_BELOW, rules.min_over_one_liner, "was not compared with it: run himari walk-forward again")
    found = verdict["less"][BEST]["utility"]
    why = f"paired utility a year less {verdict['one_liner']}, chosen on training rows: {found['estimate']:+.3f}; "
    why += "its 95 % interval must not lie wholly below 0"
    return line(NOT_BELOW, found["upper"], ">=", rules.min_over_one_liner, why, found)


def sizing(spread: float, saturation: float, rules: GateRules, whose: str = "") -> list[Line]:
    """Whether a policy still decides anything; `whose` says what was measured."""
    return [
        line("action spread", spread, ">=", rules.min_spread, f"a collapsed policy answers the same{whose}"),
        line("saturation", saturation, "<=", rules.max_saturation, f"share of multipliers at a bound{whose}"),
    ]


def controls(document: Mapping[str, Any]) -> list[Line]:
    found = {control["name"]: control for control in document["judgement"]["controls"]}
    missing = {"passed": False, "sentence": "was not run: a verdict without its controls is none"}
    asked = {name: found.get(name, missing) for name in NAMES}
    return [line(f"control: {n}", float(c["passed"]), ">=", 1.0, c["sentence"]) for n, c in asked.items()]


def leaks(document: Mapping[str, Any], reason: str | None) -> list[Line]:
    found = document["leaks"]
    if found and accepted(reason):
        why = f"overridden ({reason}): {found[0]}"
        return [Line(rule="leak test", number=len(found), threshold=0.0, comparison="<=", passed=True, why=why)]
    why = found[0] if found else "no supplied column knows the next bar"
    return [line("leak test", len(found), "<=", 0.0, why)]


def plausible(document: Mapping[str, Any], rules: GateRules, reason: str | None) -> list[Line]:
    """What is better than any honest strategy is refused, until somebody says in writing why it is none.

    The utility is held against the positive control's, an edge that was planted so that it cannot be missed. On a long
    history that edge is a weak one; then it is held against what the best rule earns with the strongest honest edge on
    the same bars (experiments/power.py). What must be above it is the lower end of the policy's interval, for by the
    estimate alone an edge as strong as that would be refused every other time. A column that no test names a leak, and
    that knows more of the next return than any honest one, is written down by the walk-forward.
    """
    verdict = document["judgement"]["verdict"]
    sharpe, utility = verdict["own"]["sharpe"], verdict["utility"]
    planted = [c["numbers"] for c in document["judgement"]["controls"] if c["name"] == "planted"]
    known = max([0.0, *(number for part in planted for number in (part.get("utility", 0.0), part.get("honest", 0.0)))])
    columns = document.get("implausible", [])
    whole = "lower end of the Sharpe ratio's 95 % interval; honest strategies stay below"
    paired = f"lower end of the paired utility {utility['estimate']:+.3f}; the strongest honest edge's is {known:+.3f}"
    asked = [line("plausible Sharpe", sharpe["lower"], "<=", rules.max_plausible_sharpe, whole, sharpe)]
    if planted and "utility" in planted[0]:  # where it is not, the control itself refuses
        asked.append(line("plausible utility", utility["lower"], "<=", known, paired, utility))
    asked.append(line("plausible columns", len(columns), "<=", 0.0, columns[0] if columns else "none is too strong"))
    return [each if each.passed else _too_good(each, reason) for each in asked]


def _too_good(refused: Line, reason: str | None) -> Line:
    if accepted(reason):
        return replace(refused, passed=True, why=f"accepted ({reason}): {TOO_GOOD}; {refused.why}")
    return replace(refused, why=f"{TOO_GOOD}; {refused.why}")


def accepted(reason: str | None) -> bool:
    """Whether somebody has written a reason."""
    return bool((reason or "").strip())


def minus_equal(difference: Mapping[str, float]) -> str:
    estimate, lower, upper = (difference[name] for name in ("estimate", "lower", "upper"))
    return f"minus {EQUAL} {estimate:+.2f} ({lower:+.2f} to {upper:+.2f})"
