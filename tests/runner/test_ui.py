"""The live page of runner and server in Chromium: nothing asked of anybody, no complaint, nothing cut off."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from helpers import PATIENCE_S
from helpers.bundle import make_bundle
from helpers.faulty import until
from helpers.pages import chromium, faults
from helpers.serving import running
from helpers.stream import lines, market, runner_of, said
from himari_rl.journal.entry import HALT
from himari_rl.journal.store import open_journal
from himari_rl.policy.runtime import load_policy
from himari_rl.runner.halt import by_hand
from himari_rl.runner.live import LiveView
from himari_rl.runner.loop import Endpoint, Loop
from himari_rl.schema import Bars
from himari_rl.serving.answered import Answered, entries_of
from himari_rl.serving.http.app import create_app
from himari_rl.serving.recent import NO_HALTS, AnswersView
from himari_rl.serving.settings import ServeSettings
from himari_rl.serving.slot import Slot

WIDTHS = (1280, 400)
WARM, ROWS = 240, 300
BARS = market("BTC-USDT", 5, ROWS)
PAST = [[int(t), float(c)] for t, c in zip(BARS.timestamp[:WARM], BARS.close[:WARM], strict=True)]
LONG = "a-strategy-whose-name-is-as-long-as-the-runner-takes-" + 46 * "x"


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    with chromium() as tab:
        yield tab


def decide(row: int, bars: Bars = BARS) -> dict[str, Any]:
    """One bar of a session; the first of them brings the history."""
    given = said(bars, row)
    bar = {name: given["bar"][name] for name in ("timestamp", "close")}
    account = {"exposure": 0.1, "unrealised_pnl": 0.0, "win_rate": 0.5}
    body = {"session_id": LONG, "bar": bar, "signal": given["signal"], "account": account}
    return body | ({"history": PAST} if row == WARM else {})


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses: a runner with two accounts, a halt, a refusal and drift's table; a server that was asked."""
    folder = tmp_path_factory.mktemp("ui")
    bundle = make_bundle(folder, hidden=(8,))
    kept = ServeSettings(journal=str(folder / "answers"), journal_wait_s=PATIENCE_S)
    with (
        open_journal(folder / "j") as journal,
        running(create_app(bundle)) as server,
        running(create_app(bundle, kept)) as journalling,
    ):
        for row in range(WARM, ROWS):
            assert journalling.post("/v1/decide", json=decide(row)).status_code == 200
        state = [0.5, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0.1, 0.5, 0]
        server.post("/predict", json={"state": state})
        server.post("/predict", json={"state": state[:3]})
        runner = runner_of(journal, bundle, histories={"BTC-USDT": BARS[:WARM]})
        runner.handle(lines([BARS], range(WARM, ROWS)))
        runner.handle([json.dumps(said(BARS, row, LONG)) for row in range(WARM, ROWS)])
        runner.handle(["nonsense"])
        journal.append([by_hand(HALT, "the exchange is down " * 20)])
        loop = Loop(runner, lambda told: None)
        endpoint = Endpoint(loop, runner, "127.0.0.1", 0)
        thread = threading.Thread(target=loop.run)
        thread.start()
        try:
            until(lambda: "halted" in httpx.get(f"{endpoint.url}/ui").text, PATIENCE_S)  # it looks once a second
            yield {
                "runner": f"{endpoint.url}/ui",
                "server": f"{server.base_url}/ui",
                "journalling server": f"{journalling.base_url}/ui",
            }
        finally:
            loop.stopping.set()
            thread.join(PATIENCE_S)
            endpoint.shutdown()
            endpoint.server_close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("whose", ["runner", "server", "journalling server"])
def test_it_asks_nobody_complains_of_nothing_and_fits(
    chrome: Any, pages: dict[str, str], whose: str, width: int, scheme: str
) -> None:
    found = faults(chrome, pages[whose], width, scheme)
    assert found == {name: [] for name in found}
    assert chrome.run("document.documentElement.clientWidth") == width
    text = chrome.run("document.body.innerText")
    expected = {
        "runner": ("halted: hand", "policy and multiplier 1.0", LONG),
        "server": ("ready", "within"),
        "journalling server": ("ready", "policy and multiplier 1.0", LONG, NO_HALTS, "/v1/decide"),
    }
    for words in expected[whose]:
        assert words in text


@pytest.mark.parametrize("multiplier", [1.0, 0.0])
def test_the_server_s_equity_is_the_runner_s_on_the_same_bars(tmp_path: Path, multiplier: float) -> None:
    """Bars that open at the close before, as the server takes them; the runner's own account of multiplier 1.0."""
    bundle, rows = make_bundle(tmp_path, hidden=(8,)), range(WARM, ROWS)
    opens = np.concatenate([BARS.close[:1], BARS.close[:-1]])
    assert BARS.signals is not None
    signals = replace(BARS.signals, action=np.array([1, 0, 0, 1, -1, 0])[np.arange(ROWS) % 6])
    bars = replace(BARS, open=opens, volume=np.ones(ROWS), funding_rate=np.zeros(ROWS), signals=signals)
    with open_journal(tmp_path / "j") as journal:
        runner = runner_of(journal, bundle, histories={"BTC-USDT": bars[:WARM]})
        runner.handle(lines([bars], rows))
        [expected] = LiveView(runner).page().curves
    answer = {"position_multiplier": multiplier, "confidence": 0.5, "latency_ms": 0.0, "model_version": "v"}
    with open_journal(tmp_path / "answers") as journal:
        for row in rows:
            body = json.dumps(decide(row, bars)).encode()
            journal.append(
                entries_of(Answered("/v1/decide", "c", "", ("BTC-USDT",), body, json.dumps(answer).encode()))
            )
    shown = asyncio.run(AnswersView(str(tmp_path / "answers")).shown(Slot(load_policy(bundle))))
    [found] = shown.curves
    np.testing.assert_allclose(found.one, expected.one, rtol=1e-12)
    np.testing.assert_allclose(found.policy, expected.one if multiplier else [10_000.0] * len(rows), rtol=1e-12)
    assert np.ptp(found.one) > 10.0


@pytest.mark.parametrize("width", WIDTHS)
def test_what_it_looks_for_is_found(chrome: Any, tmp_path: Path, width: int) -> None:
    """A page that asks others, complains, and has what is beyond its edge and what is cut off."""
    page = tmp_path / "page.html"
    page.write_text(
        '<!doctype html><body><img src="http://127.0.0.1:9/x.png"><script>console.error(1); missing()</script>'
        f'<p style="width:{width + 300}px">beyond</p><div style="width:90px;overflow:hidden;white-space:nowrap">'
        "what is longer than the room there is</div></body>"
    )
    found = faults(chrome, page, width)
    assert found["asked of others"] == ["http://127.0.0.1:9/x.png"]
    assert len(found["errors"]) >= 2
    assert any(each.startswith("page:") for each in found["cut off"])
    assert any(each.startswith("div.:") for each in found["cut off"])
