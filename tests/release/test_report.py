"""The run card: one file, no network, every panel draws in a real browser, in the light and in the dark."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers import PATIENCE_S
from helpers.verdict import run_small
from himari_rl.evaluation.record import BUNDLE
from himari_rl.release.gate import gate
from himari_rl.release.report import PANELS, report_page
from himari_rl.release.rules import GateRules

PROBE = """
<script>
const errors = []; window.onerror = message => { errors.push(String(message)); };
console.error = (...words) => errors.push(words.join(' '));
window.addEventListener('load', () => setTimeout(() => {
  if (location.hash === '#toggle') document.getElementById('theme').click();
  const marks = '.scatterlayer .trace path, .heatmaplayer .hm';
  const drawn = [...document.querySelectorAll('.plot')].filter(panel => panel.querySelector(marks));
  const said = document.createElement('pre'); said.id = 'probe';
  said.textContent = JSON.stringify({drawn: drawn.map(p => p.id), errors});
  document.body.appendChild(said);
}, 1500));
</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    os.environ["HIMARI_TRIALS"] = str(folder / "trials.sqlite")
    run_small(folder / "run")
    return report_page(folder / "run", gate(folder / "run" / BUNDLE, GateRules()))


def test_it_is_one_file_that_asks_no_network(page: str) -> None:
    own = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)  # plotly's own text names addresses it never calls
    assert "http" not in own
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=\"(?!data:)", page[:20_000])


def test_it_says_what_the_data_says_of_itself(page: str) -> None:
    said = page.partition('id="section-data"')[2].partition("</section>")[0]
    assert "coverage 100 %" in said
    assert "no Layer 2 columns: the causal reference signal" in said


def test_it_says_why_refused_and_shows_every_rule_and_control(page: str) -> None:
    assert "Why refused" in page
    for words in (
        "better than 1.0",
        "deflated Sharpe",
        "control: planted",
        "look(s) counted",
        "USD an hour",
        "judged: the policies of",
        "bars late",
    ):
        assert words in page


def browse(page: str, folder: Path, fragment: str = "") -> str:
    """The page's own account of itself, from a real browser."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    (folder / "page.html").write_text(page.replace("<head>", f"<head>{PROBE}", 1))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --virtual-time-budget=8000 --dump-dom"
    command = [
        browser,
        *flags.split(),
        f"--user-data-dir={folder / 'profile'}",
        f"{(folder / 'page.html').as_uri()}{fragment}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return found[1]


@pytest.mark.parametrize("fragment", ["", "#toggle"])
def test_every_panel_draws_in_a_browser_without_an_error(page: str, tmp_path: Path, fragment: str) -> None:
    import json

    said = json.loads(browse(page, tmp_path, fragment))
    assert said["errors"] == []
    assert sorted(said["drawn"]) == sorted(PANELS)


def test_the_browser_test_notices_a_panel_that_does_not_draw(page: str, tmp_path: Path) -> None:
    import json

    broken = page.replace('"sizing":', '"sizing_":', 1)
    said = json.loads(browse(broken, tmp_path))
    assert "sizing" not in said["drawn"]
