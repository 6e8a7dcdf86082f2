"""The words of a verdict: every sentence that a page, the gate or the run card prints about a policy is made here.

Four statements stand beside the sentence, each with a paired interval: is the policy better than 1.0, than the best
one-liner, than cash, and was 1.0 itself better than cash? Where 1.0 lost, cash was better, and "keep 1.0" is no advice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from himari_rl.evaluation.statistics import Interval

BETTER, NO_EDGE, WORSE, COLLAPSED, LOOK_AHEAD = "better", "no_edge", "worse", "collapsed", "look_ahead"
YES, NOT_SHOWN, NO = "yes", "not shown", "no"
BETTER_THAN_ONE, BETTER_THAN_ONE_LINER = "better than 1.0", "better than the one-liner"
BETTER_THAN_CASH, ONE_OR_CASH = "better than cash", "1.0 against cash"
KEEP_ONE, CASH_WAS_BETTER = "keep 1.0", "cash was better"


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One question, its answer, and the interval it rests on."""

    question: str
    answer: str
    why: str

    def __str__(self) -> str:
        return f"{self.question[:1].upper()}{self.question[1:]}: {self.answer}. {self.why}"


@dataclass(frozen=True, kw_only=True)
class OfOne:
    """What multiplier 1.0 did, per year; cash has 0 of both, so this is the paired difference to it too."""

    growth: Interval
    utility: Interval

    @property
    def lost(self) -> bool:
        """Its growth or utility is below that of cash; growth is never below utility."""
        return self.utility.estimate < 0.0


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the words are made of: differences are paired, policy minus the other, per year."""

    answer: str
    utility: Interval  # minus multiplier 1.0
    growth: Interval
    one_liner: str = ""  # which rules it is, by fold
    over_one_liner: Interval | None = None
    over_cash: Interval | None = None
    one: OfOne | None = None
    doubt: str = ""  # why the comparison itself cannot be trusted


def found_in(verdict: Mapping[str, Any], best: str, cash: str) -> Found:
    """From a verdict's document, where the differences to `best` and `cash` stand under these names.

    Raises:
        KeyError, TypeError: it is no such document.
    """
    less, one = verdict["less"], verdict["one"]
    return Found(
        answer=verdict["answer"],
        utility=Interval(**verdict["utility"]),
        growth=Interval(**verdict["growth"]),
        one_liner=verdict["one_liner"],
        over_one_liner=Interval(**less[best]["utility"]) if best in less else None,
        over_cash=Interval(**less[cash]["utility"]) if cash in less else None,
        one=None if one is None else OfOne(**{name: Interval(**one[name]) for name in ("growth", "utility")}),
        doubt=verdict["doubt"],
    )


def instead(one: OfOne | None) -> str:
    """What to do without this policy: keep 1.0, unless it lost."""
    return CASH_WAS_BETTER if one is not None and one.lost else KEEP_ONE


def statements(found: Found) -> tuple[Statement, ...]:
    """The statements that there are figures for; a doubt takes every "yes" about the policy away."""

    def doubted(yes: str) -> str:
        return f"{NOT_SHOWN} ({found.doubt})" if yes == YES and found.doubt else yes

    below = found.utility.upper < 0.0 or found.growth.upper < 0.0
    said = YES if found.answer == BETTER and found.utility.lower > 0.0 else NOT_SHOWN
    said = NO if found.answer == WORSE and below else said
    why = f"Utility {percent(found.utility)}, growth {percent(found.growth)}."
    made = [Statement(question=BETTER_THAN_ONE, answer=doubted(said), why=why)]
    for question, over in ((BETTER_THAN_ONE_LINER, found.over_one_liner), (BETTER_THAN_CASH, found.over_cash)):
        if over is not None:
            which = f" ({found.one_liner})" * (question == BETTER_THAN_ONE_LINER and bool(found.one_liner))
            made.append(
                Statement(question=question + which, answer=doubted(side_of(over)), why=f"Utility {percent(over)}.")
            )
    if found.one is not None:
        why = f"Utility of 1.0 {percent(found.one.utility)}, growth {percent(found.one.growth)}."
        made.append(Statement(question=ONE_OR_CASH, answer=_of_one(found.one), why=why))
    return tuple(made)


def side_of(difference: Interval) -> str:
    """yes above 0, no below it, by the whole interval."""
    return YES if difference.lower > 0.0 else NO if difference.upper < 0.0 else NOT_SHOWN


def _of_one(one: OfOne) -> str:
    if one.utility.estimate == 0.0 == one.growth.estimate:
        return "1.0 held nothing"
    better = CASH_WAS_BETTER if one.lost else "1.0 was better"
    return better if side_of(one.utility) != NOT_SHOWN else f"{better}, though not surely"


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """What else the sentence tells of the policy."""

    own_growth: Interval
    sharpe: float  # before costs
    lagged_sharpe: float
    lag_z: float
    gross: float  # mean exposure
    aside: bool  # whether that is standing aside
    spread: float
    level: float  # mean multiplier
    trials: int
    judged: bool = True  # whether 1.0 ever holds a position


def sentence(found: Found, policy: Conduct) -> str:
    """The verdict in a sentence or two."""
    if not policy.judged:
        return (
            "Nothing was judged: multiplier 1.0 holds no position on any of these bars, as Layer 2 takes no direction "
            "there or the limits allow none, so every multiplier earns the same."
        )
    utility, growth, answer = found.utility, found.growth, found.answer
    span = f"Utility {percent(utility)}, growth {percent(growth)}"
    if answer == LOOK_AHEAD:
        return (
            f"Suspected look-ahead: before costs the Sharpe ratio is {policy.sharpe:.2f}, and "
            f"{policy.lagged_sharpe:.2f} when every decision is used one bar later (z {policy.lag_z:.1f}). Find the "
            "input that knows the next bar."
        )
    if policy.aside:
        return (
            f"No edge found: the policy stands aside (mean exposure {100.0 * policy.gross:.1f} % of equity). "
            f"Against multiplier 1.0: {span[0].lower()}{span[1:]}."
        )
    advice = instead(found.one)
    if answer == COLLAPSED:
        return (
            f"Collapsed: the policy answers {policy.level:.2f} to every state (spread {policy.spread:.4f}). "
            f"It decides nothing: train again; {advice}."
        )
    if answer == BETTER:
        return f"Better than multiplier 1.0, {sure(utility.positive)} sure{_but_one_liner(found)}. {span}."
    if answer == WORSE:
        certain = sure(1.0 - min(utility.positive, growth.positive))
        return f"Worse than multiplier 1.0, {certain} sure: {advice}. {span}."
    if utility.lower > 0.0 and policy.own_growth.estimate < 0.0 <= growth.upper:
        return (
            f"No edge found: the policy lost less than multiplier 1.0, {sure(utility.positive)} sure, but it lost, "
            f"and cash did not: own growth {percent(policy.own_growth)}. {span}."
        )
    return f"No edge found, {advice}: {_no_edge(utility, growth, policy.trials, advice)}. {span}."


def _no_edge(utility: Interval, growth: Interval, trials: int, advice: str) -> str:
    if utility.lower > 0.0 and growth.upper < 0.0:
        return "the policy is safer but slower"
    if utility.lower > 0.0:
        counted = f"{trials} trials were" if trials > 1 else "its Sharpe ratio is"
        return f"the difference is too small once {counted} counted"
    it = "it" if advice == KEEP_ONE else "1.0"
    if growth.lower > 0.0:
        return "the policy grows faster, but counting its risk the difference cannot be told from zero"
    return f"the difference to {it} cannot be told from zero"


def _but_one_liner(found: Found) -> str:
    below = found.over_one_liner is not None and side_of(found.over_one_liner) == NO
    return f", but worse than one line of code ({found.one_liner or 'the best one-liner'})" if below else ""


def control_doubt(names: str) -> str:
    """Why nothing is called better where these controls failed."""
    return f"a control failed ({names})"


def control_failed(names: str, one: OfOne | None, said: str) -> str:
    """The sentence where the policy looks better, but a control failed."""
    return f"No edge shown, {instead(one)}: the policy looks better, but {control_doubt(names)}. {said}"


def no_verdict(doubt: str) -> str:
    """The sentence where nothing can be judged."""
    return f"No verdict: {doubt}. These are measurements; a walk-forward judges."


def percent(difference: Interval) -> str:
    """+1.0 % a year (95 % interval -2.0 to +4.0)."""
    low, high = 100.0 * difference.lower, 100.0 * difference.upper
    level = f"{100.0 * difference.confidence:g} %"
    estimate = 100.0 * difference.estimate + 0.0
    return f"{estimate:+.1f} % a year ({level} interval {low + 0.0:+.1f} to {high + 0.0:+.1f})"


def sure(share: float) -> str:
    """A share of finitely many resamples, never printed as certainty."""
    return f"{100.0 * min(share, 0.999):.1f} %"
