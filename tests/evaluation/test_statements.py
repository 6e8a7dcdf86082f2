"""The words: no advice to keep what lost, no "yes" without an interval above 0, none where the test is in doubt."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from himari_rl.evaluation.statements import (
    BETTER,
    COLLAPSED,
    LOOK_AHEAD,
    NO_EDGE,
    WORSE,
    Conduct,
    Found,
    OfOne,
    control_failed,
    instead,
    sentence,
    statements,
)
from himari_rl.evaluation.statistics import Interval


def about(estimate: float, error: float = 0.05) -> Interval:
    reach = 2.0 * error
    return Interval(estimate=estimate, lower=estimate - reach, upper=estimate + reach, confidence=0.95, positive=0.5,
                    standard_error=error)  # fmt: skip


UP, DOWN, FLAT = about(0.2), about(-0.2), about(0.01)
LOST = OfOne(growth=about(0.03), utility=about(-0.09))
EARNED = OfOne(growth=about(0.2), utility=about(0.1))
CONDUCT = Conduct(own_growth=UP, sharpe=1.0, lagged_sharpe=0.9, lag_z=0.0, gross=0.3, aside=False, spread=0.3,
                  level=1.0, trials=1)  # fmt: skip
intervals = some.builds(about, some.floats(-0.5, 0.5), some.floats(0.001, 0.3))


def told(found: Found) -> dict[str, str]:
    return {each.question.split(" (")[0]: each.answer for each in statements(found)}


@given(
    answer=some.sampled_from([BETTER, NO_EDGE, WORSE, COLLAPSED, LOOK_AHEAD]),
    utility=intervals, growth=intervals, own=intervals, one=intervals,
    aside=some.booleans(), trials=some.integers(1, 9),
)  # fmt: skip
def test_no_sentence_keeps_what_lost(
    answer: str, utility: Interval, growth: Interval, own: Interval, one: Interval, aside: bool, trials: int
) -> None:
    found = Found(answer=answer, utility=utility, growth=growth, one=OfOne(growth=about(0.5), utility=one))
    conduct = replace(CONDUCT, own_growth=own, aside=aside, trials=trials)
    said = sentence(found, conduct) + " ".join(map(str, statements(found)))
    if one.estimate < 0.0:
        assert "keep 1.0" not in said
        assert "cash was better" in said
        assert "cash was better" in control_failed("lag", found.one, "")
    else:
        assert "cash was better" not in said


def test_the_three_sentences_that_advise() -> None:
    for one, advice in ((EARNED, "keep 1.0"), (LOST, "cash was better"), (None, "keep 1.0")):
        assert instead(one) == advice
        said = sentence(Found(answer=NO_EDGE, utility=FLAT, growth=FLAT, one=one), CONDUCT)
        it = "1.0" if one is LOST else "it"
        assert said.startswith(f"No edge found, {advice}: the difference to {it} cannot be told from zero.")
        said = sentence(Found(answer=WORSE, utility=DOWN, growth=DOWN, one=one), CONDUCT)
        assert f"sure: {advice}." in said
        said = sentence(Found(answer=COLLAPSED, utility=FLAT, growth=FLAT, one=one), CONDUCT)
        assert said.endswith(f"It decides nothing: train again; {advice}.")


def test_a_policy_below_one_line_of_code_is_not_praised_without_saying_so() -> None:
    found = Found(answer=BETTER, utility=UP, growth=UP, one_liner="15 % volatility", over_one_liner=DOWN)
    assert "sure, but worse than one line of code (15 % volatility)." in sentence(found, CONDUCT)
    assert "but worse" not in sentence(replace(found, over_one_liner=FLAT), CONDUCT)


def test_each_statement_is_the_side_of_its_interval() -> None:
    for over, said in ((UP, "yes"), (FLAT, "not shown"), (DOWN, "no")):
        found = Found(answer=NO_EDGE, utility=FLAT, growth=FLAT, over_one_liner=over, over_cash=over)
        assert told(found) == {
            "better than 1.0": "not shown", "better than the one-liner": said, "better than cash": said,
        }  # fmt: skip
    assert told(Found(answer=BETTER, utility=UP, growth=UP))["better than 1.0"] == "yes"
    assert told(Found(answer=WORSE, utility=DOWN, growth=FLAT))["better than 1.0"] == "no"
    assert told(Found(answer=BETTER, utility=FLAT, growth=UP))["better than 1.0"] == "not shown"  # a claim alone
    for one, said in ((EARNED, "1.0 was better, though not surely"), (LOST, "cash was better, though not surely")):
        assert told(Found(answer=NO_EDGE, utility=FLAT, growth=FLAT, one=one))["1.0 against cash"] == said
    sure = OfOne(growth=DOWN, utility=DOWN)
    assert told(Found(answer=NO_EDGE, utility=FLAT, growth=FLAT, one=sure))["1.0 against cash"] == "cash was better"


@pytest.mark.parametrize("doubt", ["a control failed (planted)", "a look-ahead is suspected"])
def test_a_doubt_takes_every_yes_away_and_no_other_word(doubt: str) -> None:
    found = Found(answer=BETTER, utility=UP, growth=UP, over_one_liner=UP, over_cash=DOWN, one=LOST, doubt=doubt)
    assert told(found) == {
        "better than 1.0": f"not shown ({doubt})",
        "better than the one-liner": f"not shown ({doubt})",
        "better than cash": "no",
        "1.0 against cash": "cash was better, though not surely",
    }
