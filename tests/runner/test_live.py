"""The live page: what it says is true, what came from outside is escaped, and it asks nothing of anybody."""

from __future__ import annotations

import json
import re
import threading
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from helpers import PATIENCE_S
from helpers.bundle import make_bundle
from helpers.serving import running
from helpers.stream import lines, market, runner_of, said
from himari_rl.journal.entry import HALT
from himari_rl.journal.store import open_journal
from himari_rl.monitoring.page import Curve, LivePage, PageTable, render_page
from himari_rl.runner.config import RunConfig
from himari_rl.runner.halt import by_hand
from himari_rl.runner.live import LiveView
from himari_rl.runner.loop import Endpoint, Loop
from himari_rl.serving.http.app import create_app

WARM, ROWS = 240, 300
BARS = market("BTC-USDT", 5, ROWS)


class _Asked(HTMLParser):
    """Everything that a browser would fetch, run or follow."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [f"{tag}: {v}" for n, v in attrs if n in ("src", "href", "action", "srcset", "data") and v]
        self.found += [tag] if tag in ("script", "iframe", "object", "embed", "base") else []
        self.found += [f"{tag}: {n}" for n, _ in attrs if n.startswith("on")]


def asks_nothing(page: str, headers: httpx.Headers) -> None:
    parser = _Asked()
    parser.feed(page)
    assert parser.found == ["link: data:,"]
    assert not re.search(r"url\(|@import|https?://", page)
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert 'name="viewport"' in page


def test_the_runner_s_page_is_what_the_journal_says(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path, hidden=(8,))
    with open_journal(tmp_path / "one") as journal:
        run = RunConfig(clock="bar", enable_rl=False)  # every decision is 1.0: the other curve by another road
        ones = runner_of(journal, folder, run=run, histories={"BTC-USDT": BARS[:WARM]})
        expected = [each["equity_usd"] for each in ones.handle(lines([BARS], range(WARM, ROWS)))]
    with open_journal(tmp_path / "j") as journal:
        runner = runner_of(journal, folder, histories={"BTC-USDT": BARS[:WARM]})
        view, stream = LiveView(runner), lines([BARS], range(WARM, ROWS))
        told = runner.handle(stream[:20])
        assert len(view.page().curves[0].policy) == 20
        told += runner.handle(stream[20:])
        journal.append([by_hand(HALT, "the <exchange> is down")])
        runner.idle()
        page = view.page()
        [curve] = page.curves
        assert curve.policy == [each["equity_usd"] for each in told]
        assert curve.one == pytest.approx(expected, rel=1e-12)
        assert (page.well, page.status) == (False, "halted: hand")
        text = render_page(page).decode()
    assert "the &lt;exchange&gt; is down" in text
    assert f"{told[-1]['size_usd']:+,.2f}" in text
    assert f"{curve.one[-1]:,.2f} USD" in text


def test_the_runner_serves_it(tmp_path: Path) -> None:
    with open_journal(tmp_path / "j") as journal:
        runner = runner_of(journal, make_bundle(tmp_path, hidden=(8,)))
        loop = Loop(runner, lambda told: None)
        endpoint = Endpoint(loop, runner, "127.0.0.1", 0)
        thread = threading.Thread(target=loop.run)
        thread.start()
        try:
            evil = json.dumps(said(BARS, 0, "<script>alert(1)</script>"))
            assert httpx.post(f"{endpoint.url}/signals", content=evil, timeout=PATIENCE_S).status_code == 200
            answer = httpx.get(f"{endpoint.url}/ui", timeout=PATIENCE_S)
        finally:
            loop.stopping.set()
            thread.join(PATIENCE_S)
            endpoint.shutdown()
            endpoint.server_close()
    assert answer.status_code == 200
    asks_nothing(answer.text, answer.headers)
    assert "&lt;script&gt;" in answer.text


def test_the_server_has_the_same_page(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path, hidden=(8,))
    with running(create_app(folder)) as server:
        before = server.get("/ui")
        state = [0.5, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0.1, 0.5, 0]
        version = server.post("/predict", json={"state": state}).json()["model_version"]
        after = server.get("/ui")
    asks_nothing(after.text, after.headers)
    assert version in before.text
    assert "nothing yet" in before.text
    assert "within" in after.text


def test_a_curve_is_drawn_to_its_own_ends() -> None:
    curve = Curve(name="x", policy=[1.0, 3.0, 2.0], one=[1.0, 1.0, 1.0])
    page = LivePage(
        title="t", status="s", well=True, facts=[], curves=[curve], tables=[PageTable(title="r", columns=(), rows=[])]
    )
    text = render_page(page).decode()
    assert "M0.0,235.0L333.3,5.0" in text  # the lowest at the foot, the highest at the top
    assert "difference +1.00 USD" in text
