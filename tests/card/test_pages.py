"""Pages of an evaluation and of a certification: in the run card's look, whole in a browser, true to their document."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.bundle import make_bundle
from helpers.pages import DRAWN, chromium, faults
from himari_rl.card.blocks import Cell, Grid, Page, Prose, Section, number, percent
from himari_rl.card.robustness import folds
from himari_rl.card.template import render
from himari_rl.certification.histories import HistoryGrade
from himari_rl.certification.history_certificates import HistoryAttempt, HistoryCertificate
from himari_rl.certification.page import certificate_page
from himari_rl.data.synthetic_panel import synthetic_panel
from himari_rl.evaluation.backtest import SEED
from himari_rl.evaluation.baselines import ONE
from himari_rl.experiments.evaluate import Evaluation, evaluate
from himari_rl.experiments.evaluation_page import evaluation_html
from himari_rl.policy.runtime import load_policy

WIDTHS, SCHEMES = (1280, 400), ("light", "dark")


@pytest.fixture(scope="module")
def tab() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def portfolio(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, str]:
    """A policy of random weights on three synthetic assets; its twins are trained in seconds."""
    folder = tmp_path_factory.mktemp("evaluated")
    patch = pytest.MonkeyPatch()
    patch.setenv("HIMARI_TRIALS", str(folder / "trials.sqlite"))
    with patch.context():
        policy = load_policy(make_bundle(folder, "multi", hidden=(8,)))
        bars = synthetic_panel(policy.manifest.symbols, 1200, 0)
        found = evaluate(policy, bars, allow_seen=True)
        page = evaluation_html(policy, bars, found)
    patch.undo()
    return found, page


def test_an_evaluation_has_the_card_of_its_policy(portfolio: tuple[Evaluation, str]) -> None:
    found, page = portfolio
    names = re.findall(r'<section id="(.*?)">', page)
    shared = ["verdict", "expected", "time", "baselines", "returns", "drawdowns", "trades", "conduct", "limits"]
    assert names[: len(shared)] == shared
    assert "portfolio" in names
    assert found.verdict.sentence in page.replace("&#39;", "'")
    assert "risk taken away by the portfolio" in page
    for rule in found.portfolio.gates if found.portfolio is not None else ():
        assert f'<th scope="row">{rule.name}</th>' in page


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_of_a_portfolio_is_whole_in_a_browser(
    portfolio: tuple[Evaluation, str], tab: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    place = tmp_path / "page.html"
    place.write_text(portfolio[1])
    found = faults(tab, place, width, scheme)
    assert found == {name: [] for name in found}
    assert {"price-0", "price-1", "price-2", "equity", "sizing"} <= set(tab.run(DRAWN))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_of_certificates_is_whole_in_a_browser(tab: Any, tmp_path: Path, width: int, scheme: str) -> None:
    grade = HistoryGrade(
        market="R1", utility=0.09, optimum=0.1, one=0.01, banded=0.05, over_one=0.9, over_one_error=0.0,
        over_banded=0.8, of_optimum=0.9, loss=0.1, exposure=0.2, turnover=0.0,
    )  # fmt: skip
    attempts = tuple(HistoryAttempt("R1", seed, grade, 1.0, 1000) for seed in range(3))
    certificate = HistoryCertificate("R1", attempts, "over_one", True, "median .900 of what can be gained over 1.0")
    place = tmp_path / "page.html"
    place.write_text(certificate_page([certificate], {}))
    found = faults(tab, place, width, scheme)
    assert found == {name: [] for name in found}
    assert len(tab.run("[...document.querySelectorAll('svg .bar')].map(each => each.getBBox().height)")) == 6


@pytest.mark.parametrize("width", WIDTHS)
def test_folds_of_few_and_of_many_seeds_fit(tab: Any, tmp_path: Path, width: int) -> None:
    for seeds in (1, 3, 4, 5, 12):
        growth = {"policy": -0.425, ONE: 0.1} | {f"{SEED}{k}": -0.5 + 0.01 * k for k in range(seeds)}
        fold = {"test": ["2024-10-01T01:00Z", ""], "growth": growth, "sharpe": -12.3, "training_gain": -1.425}
        page = Page(what="run card", title="folds", sections=[folds([fold] * 6)])
        place = tmp_path / f"{seeds}.html"
        place.write_text(render(page))
        found = faults(tab, place, width)
        assert found == {name: [] for name in found}, seeds


def test_what_others_wrote_is_text_and_never_markup() -> None:
    evil = '<script>alert("x")</script> & </table>'
    rows = [[evil, Cell(evil, "better", 0.5, evil)]]
    blocks = [Prose(lines=[evil]), Grid(head=(evil, evil), rows=rows)]
    page = render(Page(what=evil, title=evil, sections=[Section(name="one", title=evil, blocks=blocks)]))
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert") >= 8


def test_a_number_that_is_none_is_a_dash_and_minus_is_a_minus() -> None:
    assert number(float("nan")) == percent(None) == percent(float("inf")) == "–"
    assert number(-1234.5, 1) == "−1,234.5"
    assert number(-0.001, 2) == "0.00"
    assert percent(0.123, sign=True) == "+12.3\u202f%"
