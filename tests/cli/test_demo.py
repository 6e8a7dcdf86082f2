"""himari demo: the whole road, in real processes, at a fortieth of the budget."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from helpers import PATIENCE_S, blocks, himari_here, run_himari, shared_data
from helpers.warm import Warm
from himari_rl.cli import demo
from himari_rl.data.sources import load_bars
from himari_rl.data.table import write_bars
from himari_rl.policy.runtime import load_policy

SMALL = ("--num-episodes", "25")


SHA256 = re.compile(r"\b[0-9a-f](?:\s*[0-9a-f]){63}\b")  # wherever a terminal broke it


def words(text: str) -> str:
    """A text without what differs between machines and terminals: numbers, hashes, where lines break, drawn lines."""
    text = SHA256.sub("#", text)
    text = re.sub(r"\b[0-9a-f]{12,}\b|(?<=base-)[0-9a-f]+", "#", text)
    text = re.sub(r'(?<="memory": ")[^"]+', "#", text)
    text = re.sub(r"[+-]?\d[\d,.:]*(e-\d+)?", "#", text)
    return f" {' '.join(re.sub('[─-╿]', ' ', text).split())} "


def controls(text: str) -> dict[str, tuple[str, str]]:
    """Every control's mark and sentence, by its name."""
    found = re.findall(r"^(ok|FAILED) +(\S+) (.*?)(?=^ok |^FAILED |^This much|^╭|^$)", text, re.MULTILINE | re.DOTALL)
    return {name: (mark, sentence) for mark, name, sentence in found}


def strange(shown: str, printed: str) -> list[str]:
    """What a page shows and the program does not print.

    The verdict's own sentence is as the market was. A control's sentence must be the same where its mark is.
    """
    own, theirs, everything = controls(shown), controls(printed), words(printed)
    rest = SHA256.sub("#", shown)
    for _, sentence in own.values():
        rest = rest.replace(sentence, "\n")
    as_it_was = ("│", "Done.", "ok", "FAILED", "…")
    lines = [line for line in rest.splitlines() if words(line).strip() and not line.lstrip().startswith(as_it_was)]
    found = [line for line in lines if words(line) not in everything]
    for name, (mark, sentence) in own.items():
        if name not in theirs or (mark == theirs[name][0] and words(sentence) != words(theirs[name][1])):
            found.append(f"{name} {sentence}")
    return found


def running_in(folder: Path) -> list[str]:
    """Processes that work in `folder`."""
    found = [path for path in Path("/proc").glob("[0-9]*/cwd") if os.access(path, os.R_OK)]
    return [str(path) for path in found if path.resolve() == folder.resolve()]


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("walk")
    whole = ("--num-episodes", "500")  # more than is planned at first, as in the page's own run
    return folder, run_himari("demo", "--json", *whole, cwd=folder, COLUMNS="80", OMP_NUM_THREADS="1")


def test_json_is_one_document_and_the_story_goes_to_stderr(
    walked: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, result = walked
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert set(document) == {"bundle", "page", "synthetic", "rows", "verdict", "request", "answer"}
    positions = [result.stderr.index(f"{number}/6 {stage}") for number, stage in enumerate(demo.STAGES, 1)]
    assert positions == sorted(positions)
    assert "SYNTHETIC" in result.stderr
    assert demo.REAL_BARS in result.stderr


def test_it_ends_with_the_path_of_the_run_card(walked: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, result = walked
    page = json.loads(result.stdout)["page"]
    assert f"the run card: {page}" in result.stderr.splitlines()[-1]
    assert (folder / page).read_text().startswith("<!doctype html>")


def test_real_says_how_and_does_nothing(tmp_path: Path) -> None:
    result = run_himari("demo", "--real", cwd=tmp_path)
    assert result.returncode == 0
    assert demo.REAL_BARS in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_readme_shows_what_it_prints(walked: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    shown = blocks("console")[0]
    assert len(words(shown).split()) > 400
    assert len(controls(shown)) == len(controls(walked[1].stderr)) == 5
    assert strange(shown, walked[1].stderr) == []


PAGE = f"""rows   35,000
  sha256        {"a4227b6ad5" * 6}
                8cff
ok     lag       One bar late the Sharpe ratio is 1.64.
ok     costs     Sharpe ratio at costs x1 +1.21, x2 +0.95, x3
+0.69.
This much data shows 53.8 % a year.
"""


def test_another_machines_numbers_and_width_are_not_strange() -> None:
    other = (
        PAGE.replace("a4227b6ad5", "07c51ee2f9").replace("                8cff", " 91\n   0e").replace("1.64", "-.2")
    )
    other = other.replace("x3\n", "x3 ").replace("35,000", "7").replace("ok     lag", "FAILED lag       Look-ahead.")
    assert other != PAGE
    assert strange(PAGE, other) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [("rows", "columns"), ("sha256", "digest"), ("at costs", "of costs"), ("lag", "late"), ("a year", "")],
)
def test_another_word_is(old: str, new: str) -> None:
    assert len(strange(PAGE, PAGE.replace(old, new))) == 1


def test_the_answer_is_the_bundles_own_decision_on_the_state_sent(
    walked: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    document = json.loads(walked[1].stdout)
    policy = load_policy(walked[0] / document["bundle"])
    decision = policy.decide(document["request"]["state"])
    assert document["answer"]["model_version"] == policy.manifest.version
    assert document["answer"]["position_multiplier"] == pytest.approx(float(decision.multipliers[0]), abs=1e-6)
    assert document["answer"]["confidence"] == pytest.approx(float(decision.confidence), abs=1e-6)


def test_the_verdict_shown_is_the_one_saved_beside_the_policy(
    walked: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    document = json.loads(walked[1].stdout)
    saved = json.loads((walked[0] / document["bundle"] / "evaluation.json").read_text())
    assert document["verdict"] == saved["verdict"]
    assert saved["seen_in_training"] is False
    assert document["verdict"]["sentence"] in " ".join(walked[1].stderr.split())


def test_the_server_of_the_demo_does_not_outlive_it(walked: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    if not Path("/proc/self/cwd").exists():
        pytest.skip("no /proc here to see processes by")
    assert running_in(walked[0]) == []
    with subprocess.Popen(["sleep", "30"], cwd=walked[0]) as left_behind:  # what the line above would have seen
        assert running_in(walked[0]) == [f"/proc/{left_behind.pid}/cwd"]
        left_behind.kill()


def test_a_missing_file_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    result = run_himari("demo", "--data", "none.csv", cwd=tmp_path)
    assert result.returncode == 2
    assert [line for line in result.stderr.splitlines() if "none.csv" in line] == result.stderr.splitlines()
    assert list(tmp_path.iterdir()) == []


def test_real_bars_walk_the_same_road(tmp_path: Path) -> None:
    path = tmp_path / "BTC-USDT_1h.parquet"
    write_bars(load_bars(shared_data("binance-spot", path.name))[-9_000:], path)  # a year
    result = himari_here("demo", "--data", str(path), *SMALL, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "SYNTHETIC" not in result.stdout
    assert "BTC-USDT" in result.stdout
    assert '"position_multiplier"' in result.stdout


def test_ctrl_c_stops_it_with_one_line_and_exit_130(
    warm: Warm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    process = warm.himari(["demo", "--num-episodes", "200000"])
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (tmp_path / "runs" / "demo" / "training.json").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None, process.said
            time.sleep(0.05)
        time.sleep(1.0)  # somewhere in the training, wherever this machine is by then
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert err.splitlines()[-1].startswith("himari: stopped")
    assert "Traceback" not in err
