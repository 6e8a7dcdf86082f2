"""What was registered is one judged look at one span with one set of settings; everything else is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from himari_rl.errors import ConfigError
from himari_rl.schema import DAY_MS
from himari_rl.trials.ledger import ANY_MARKET, Trials
from himari_rl.trials.register import Standing, flat, freeze, parse_span, rules_differ, standing

SETTINGS = {"kind": "base", "train": "6mo", "seeds": (0, 1), "agent": {"hidden_dim": 16}}
FROZEN = SETTINGS | {"gate": {"min_sharpe": 1.0}, "evaluate": {"test_fraction": 0.2}}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Trials]:
    with Trials(tmp_path / "t.sqlite") as trials:
        yield trials


def judged(ledger: Trials, what: str, first: int = 0, last: int = 100, **changes: object) -> Standing:
    ledger.look("walk-forward", "BTC-USDT", first, last, what)
    return standing(ledger, "BTC-USDT", first, last, SETTINGS | changes)


def test_without_a_registration_that_is_said(ledger: Trials) -> None:
    assert judged(ledger, "a").line == "not registered"


@pytest.mark.parametrize("market", ["BTC-USDT", ANY_MARKET])
def test_the_first_look_with_the_registered_settings_is_as_registered(ledger: Trials, market: str) -> None:
    made = freeze(ledger, FROZEN, market, 0, 100)
    found = judged(ledger, "a")
    assert (found.registered, found.judged, found.differs, found.hash) == (1, 1, (), made.hash)
    assert found.line.endswith("; as registered")
    assert judged(ledger, "a").judged == 1  # a run that is continued


def test_a_second_look_is_marked(ledger: Trials) -> None:
    freeze(ledger, FROZEN, "BTC-USDT", 0, 100)
    judged(ledger, "a")
    assert judged(ledger, "b").line.endswith("judged 2 times; registered once")


def test_ten_registrations_are_ten_chances(ledger: Trials) -> None:
    for hidden in range(10):
        freeze(ledger, FROZEN | {"agent": {"hidden_dim": hidden}}, "BTC-USDT", 0, 100)
    found = judged(ledger, "a", agent={"hidden_dim": 3})
    assert found.differs == ()
    assert "registered 10 times" in found.line


def test_a_key_that_differs_is_named(ledger: Trials) -> None:
    freeze(ledger, FROZEN, "BTC-USDT", 0, 100)
    found = judged(ledger, "a", agent={"hidden_dim": 32}, train="3mo")
    assert found.differs == ("agent.hidden_dim", "train")
    assert "not as registered: agent.hidden_dim, train" in found.line


@pytest.mark.parametrize(("first", "last", "differs"), [(0, 101, True), (0, 40, True), (5, 100, False)])
def test_another_span_is_named(ledger: Trials, first: int, last: int, differs: bool) -> None:
    freeze(ledger, FROZEN, "BTC-USDT", 0, 100)
    assert judged(ledger, "a", first, last).differs == (("span",) if differs else ())


def test_another_span_or_another_market_is_not_registered(ledger: Trials) -> None:
    freeze(ledger, FROZEN, "ETH-USDT", 0, 100)
    freeze(ledger, FROZEN, "BTC-USDT", 200, 300)
    assert judged(ledger, "a").registered == 0


def test_a_span_that_was_looked_at_before_is_not_fresh(ledger: Trials) -> None:
    judged(ledger, "early")
    freeze(ledger, FROZEN, "BTC-USDT", 0, 100)
    found = judged(ledger, "a")
    assert (found.looks_before, found.judged) == (1, 1)
    assert "after 1 look at that span" in found.line


def test_a_registration_is_no_look(ledger: Trials) -> None:
    freeze(ledger, FROZEN, "BTC-USDT", 0, 100)
    assert ledger.look("evaluate", "BTC-USDT", 0, 100, "a") == 1


def test_the_gates_rules_are_compared_by_the_gate(ledger: Trials) -> None:
    made = freeze(ledger, FROZEN, "BTC-USDT", 0, 100)
    assert rules_differ(ledger, made.hash, {"min_sharpe": 1.0, "later": 3.0}) == ()
    assert rules_differ(ledger, made.hash, {"min_sharpe": 0.5}) == ("gate.min_sharpe",)


def test_an_evaluation_compares_what_it_has(ledger: Trials) -> None:
    freeze(ledger, FROZEN, "BTC-USDT", 0, 100)
    ledger.look("evaluate", "BTC-USDT", 0, 100, "a")
    mine = {"kind": "base", "evaluate": {"test_fraction": 0.3}}
    assert standing(ledger, "BTC-USDT", 0, 100, mine, partial=True).differs == ("evaluate.test_fraction",)


def test_a_span_is_two_days_both_included() -> None:
    first, last = parse_span("2024-01-01..2024-01-31")
    assert last + 1 - first == 31 * DAY_MS
    assert parse_span("2024-01-01T00:00..2024-01-01T06:00+00:00")[1] - first == DAY_MS // 4
    for wrong in ("2024-01-01", "2024-02-01..2024-01-01", "a..b", ".."):
        with pytest.raises(ConfigError, match="--span"):
            parse_span(wrong)


def test_settings_are_compared_under_dotted_keys() -> None:
    assert flat({"a": {"b": (1, 2)}, "c": None}) == {"a.b": [1, 2], "c": None}
