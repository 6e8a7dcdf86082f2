"""The live page of runner and server in Chromium: nothing asked of anybody, no complaint, nothing cut off."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from helpers import PATIENCE_S
from helpers.bundle import make_bundle
from helpers.faulty import until
from helpers.pages import chromium, faults
from helpers.serving import running
from helpers.stream import lines, market, runner_of, said
from himari_rl.journal.entry import HALT
from himari_rl.journal.store import open_journal
from himari_rl.runner.halt import by_hand
from himari_rl.runner.loop import Endpoint, Loop
from himari_rl.serving.http.app import create_app

WIDTHS = (1280, 400)
WARM, ROWS = 240, 300
BARS = market("BTC-USDT", 5, ROWS)
LONG = "a-strategy-whose-name-is-as-long-as-the-runner-takes-" + 46 * "x"


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    with chromium() as tab:
        yield tab


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses: a runner with two accounts, a halt, a refusal and drift's table; a server that was asked."""
    folder = tmp_path_factory.mktemp("ui")
    bundle = make_bundle(folder, hidden=(8,))
    with open_journal(folder / "j") as journal, running(create_app(bundle)) as server:
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
            yield {"runner": f"{endpoint.url}/ui", "server": f"{server.base_url}/ui"}
        finally:
            loop.stopping.set()
            thread.join(PATIENCE_S)
            endpoint.shutdown()
            endpoint.server_close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("whose", ["runner", "server"])
def test_it_asks_nobody_complains_of_nothing_and_fits(
    chrome: Any, pages: dict[str, str], whose: str, width: int, scheme: str
) -> None:
    found = faults(chrome, pages[whose], width, scheme)
    assert found == {name: [] for name in found}
    assert chrome.run("document.documentElement.clientWidth") == width
    text = chrome.run("document.body.innerText")
    for words in {"runner": ("halted: hand", "policy and multiplier 1.0", LONG), "server": ("ready", "within")}[whose]:
        assert words in text


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
