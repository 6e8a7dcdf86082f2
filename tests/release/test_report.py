"""The run card: one file, no network, every panel drawn in a real browser, at any width, in the light and the dark."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.pages import DRAWN, chromium, faults
from helpers.verdict import run_small
from himari_rl.card.panels import unpacked
from himari_rl.evaluation.record import BUNDLE, read_curves, read_run
from himari_rl.release.gate import gate
from himari_rl.release.report import report_page
from himari_rl.release.rules import GateRules

PANELS = {"price-0", "equity", "drawdown", "difference", "sharpe", "volatility", "sizing", "costs"}
SECTIONS = (  # in the order of doubt
    *("verdict", "expected", "gate", "time", "baselines", "returns", "drawdowns", "trades", "conduct", "limits"),
    *("signals", "controls", "folds", "trials", "ledger", "data", "settings", "cost"),
)
LARGEST = 2_000_000  # bytes


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    os.environ["HIMARI_TRIALS"] = str(folder / "trials.sqlite")
    run_small(folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return report_page(run, gate(run / BUNDLE, GateRules()))


@pytest.fixture(scope="module")
def tab() -> Iterator[Any]:
    with chromium() as found:
        yield found


def section(page: str, name: str) -> str:
    return page.partition(f'<section id="{name}">')[2].partition("</section>")[0]


def test_it_is_one_small_file_that_asks_no_network(page: str) -> None:
    assert len(page.encode()) < LARGEST
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)  # uPlot's own text names its home
    assert "http:" not in own
    assert "https:" not in own
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=\"(?!data:)", page)
    assert "default-src 'none'" in page
    assert "Permission is hereby granted" in page  # the chart library's licence comes along


def test_the_sections_stand_in_the_order_of_doubt(page: str) -> None:
    assert tuple(re.findall(r'<section id="(.*?)">', page)) == SECTIONS


def test_it_says_what_the_data_says_of_itself(page: str) -> None:
    said = section(page, "data")
    assert "coverage 100 %" in said
    assert "no Layer 2 columns: the causal reference signal" in said


def test_it_says_why_refused_and_shows_every_rule_and_control(page: str, run: Path) -> None:
    assert "Why refused" in section(page, "verdict")
    rules = section(page, "gate")
    for line in gate(run / BUNDLE, GateRules()).lines:
        assert f'<th scope="row">{line.rule}</th>' in rules
    for control in read_run(run)["judgement"]["controls"]:
        assert f'<th scope="row">{control["name"]}</th>' in section(page, "controls")
    for words in ("look(s) counted", "USD an hour", "Judged: the policies of", "bars late"):
        assert words in page


def test_it_names_no_place_of_the_machine_that_made_it(page: str, run: Path) -> None:
    assert str(run.parent) not in page


def test_every_strategy_has_its_absolute_figures_and_the_policy_its_difference_to_each(page: str, run: Path) -> None:
    verdict = read_run(run)["judgement"]["verdict"]
    said = section(page, "baselines")
    for row in verdict["summaries"]:
        if row["variant"] == "x1" and not row["strategy"].startswith("seed"):
            assert f'<th scope="row">{row["strategy"]}</th>' in said
    for name in verdict["less"]:
        assert f'<th scope="row">minus {name}</th>' in said


def test_the_curves_on_the_page_are_those_of_the_run_on_one_time_axis(page: str, run: Path) -> None:
    found = re.search(r'<script type="application/json" id="curves">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    curves = read_curves(run)
    seconds = np.frombuffer(base64.b64decode(data["axis"]["seconds"]), "<u4").astype(np.int64)
    assert (1000 * (data["axis"]["start"] + seconds)).tolist() == curves["fill_time"].tolist()
    drawn = {panel["name"]: {c["name"]: c for c in panel["curves"]} for panel in data["panels"]}
    assert set(drawn) == PANELS
    for of in drawn["equity"].values():
        assert unpacked(of) == pytest.approx(curves[f"equity/{of['name']}"], abs=of["span"] / 60_000)
    price = drawn["price-0"]["price"]
    assert unpacked(price) == pytest.approx(curves["card/price"][:-1, 0], abs=price["span"] / 60_000)
    position = drawn["price-0"]["position"]
    assert unpacked(position) == pytest.approx(curves["exposure"][:, 0], abs=1e-4)


def test_the_trades_can_be_taken_along_as_csv(page: str) -> None:
    found = re.search(r'download="(.*?)" href="data:text/csv;base64,(.*?)"', page)
    assert found is not None
    lines = base64.b64decode(found[2]).decode().splitlines()
    assert found[1] == "trades-BTC-SYNTHETIC.csv"
    assert lines[0].startswith("symbol,side,opened,closed,")
    told = re.search(r"([\d,]+) trades, each one stretch", page)
    assert told is not None
    assert len(lines) - 1 == int(told[1].replace(",", ""))


def test_a_run_that_kept_no_prices_still_has_its_page_and_says_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = {name: values for name, values in read_curves(run).items() if not name.startswith("card/")}
    monkeypatch.setattr("himari_rl.release.report.read_curves", lambda folder: old)
    page = report_page(run, gate(run / BUNDLE, GateRules()))
    assert "This run kept no prices" in section(page, "trades")
    assert "growth a year" in section(page, "baselines")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_is_whole_in_a_browser(page: str, tab: Any, tmp_path: Path, width: int, scheme: str) -> None:
    place = tmp_path / "page.html"
    place.write_text(page)
    found = faults(tab, place, width, scheme)
    assert found == {name: [] for name in found}
    assert set(tab.run(DRAWN)) == PANELS
    paper = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", paper)[0]) < 100) == (scheme == "dark")


def test_a_zoom_of_one_panel_is_a_zoom_of_all_and_the_button_turns_the_light_off(
    page: str, tab: Any, tmp_path: Path
) -> None:
    place = tmp_path / "page.html"
    place.write_text(page)
    tab.open(place, 1280, "light")
    pixels = "[...document.querySelectorAll('.panel canvas')].map(c => c.toDataURL())"
    far = tab.run(pixels)
    tab.run("document.querySelector('#equity').scrollIntoView()")
    left, top = tab.run("(r => [r.left, r.top])(document.querySelector('#equity .u-over').getBoundingClientRect())")
    for kind, across in (("Moved", 100), ("Pressed", 100), ("Moved", 300), ("Released", 300)):
        button = {} if kind == "Moved" and across == 100 else {"button": "left", "buttons": 1, "clickCount": 1}
        tab.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=left + across, y=top + 60, **button)
    tab.run("new Promise(done => setTimeout(done, 100))")
    near = tab.run(pixels)
    assert all(a != b for a, b in zip(near, far, strict=True))
    tab.run("document.querySelector('.ranges [data-days=\"0\"]').click()")
    tab.run("new Promise(done => setTimeout(done, 100))")
    assert tab.run("document.querySelector('.ranges [data-days=\"0\"]').getAttribute('aria-pressed')") == "true"
    assert len(set(tab.run(pixels)) & set(near)) == 0
    tab.run("document.getElementById('theme').click()")
    assert tab.run("document.documentElement.dataset.theme") == "dark"


def test_the_browser_test_notices_what_it_is_there_for(page: str, tab: Any, tmp_path: Path) -> None:
    place = tmp_path / "page.html"
    wide = '<div style="width:3000px;height:5px"></div>'
    broken = page.replace('"name": "sizing"', '"name": "sizing_"', 1).replace("<main>", f"<main>{wide}", 1)
    asks = '<img src="http://127.0.0.1:9/one.png">'
    place.write_text(broken.replace("<main>", f"<main>{asks}<script>console.error('heard')</script>", 1))
    found = faults(tab, place, 400, "light")
    assert any(line.startswith("page: ") for line in found["cut off"])
    assert any("heard" in line for line in found["errors"])
    assert any("Content Security Policy" in line for line in found["errors"])  # and so nothing was asked
    assert "sizing" not in tab.run(DRAWN)
