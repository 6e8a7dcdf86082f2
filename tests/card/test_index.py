"""The index of many runs: every run, what it found, its card, and a browser that finds nothing wrong."""

from __future__ import annotations

from pathlib import Path

from helpers.pages import chromium, faults
from himari_rl.card.index import index_page

ROW = {"kind": "base", "symbols": ["BTC-USDT"], "decisions": 900, "failed_controls": [], "seconds": 12.0, "usd": 0.01}


def rows() -> list[dict]:
    return [
        ROW | {"run": "a", "answer": "no_edge", "gate": False, "utility": 0.01, "sharpe": 0.4, "trials": 3}
        | {"differs": {"agent.gamma": 0.9}, "failed_controls": ["lag"]},
        ROW | {"run": "deep/b", "answer": "better", "gate": True, "utility": 0.11, "sharpe": 1.4, "trials": 4}
        | {"differs": {"agent.gamma": 0.99}},
        {"run": "c", "unreadable": "walk_forward.json is <damaged>", "differs": {}},
    ]  # fmt: skip


def test_every_run_is_there_the_best_first_and_a_card_is_linked_where_there_is_one(tmp_path: Path) -> None:
    card = tmp_path / "runs" / "deep" / "b" / "report.html"
    card.parent.mkdir(parents=True)
    card.write_text("a card")
    (tmp_path / "runs" / "a" / "logs").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "logs" / "events.out.tfevents.1").touch()
    page = index_page(rows(), tmp_path / "runs", tmp_path / "index.html")
    assert '<a href="runs/deep/b/report.html">deep/b</a>' in page
    assert page.index("deep/b</a>") < page.index('<th scope="row">a</th>') < page.index('<th scope="row">c</th>')
    for words in ("agent.gamma 0.9", "failed: lag", "✓ passed", "✕ refused", "+11.0\u202f%", "&lt;damaged&gt;"):
        assert words in page
    assert "3 walk-forwards, 1 of them passed the gate" in page
    assert f"tensorboard --logdir {tmp_path / 'runs' / 'a' / 'logs'}" in page


def test_the_index_is_whole_in_a_browser(tmp_path: Path) -> None:
    place = tmp_path / "index.html"
    place.write_text(index_page(rows(), tmp_path, place))
    with chromium() as tab:
        for width, scheme in ((1280, "light"), (400, "dark")):
            found = faults(tab, place, width, scheme)
            assert found == {name: [] for name in found}
