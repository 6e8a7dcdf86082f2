"""The README is run, not believed: its commands work, its tree is the tree, its links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from helpers import PATIENCE_S, README, ROOT, blocks, himari_here, load_script, run_himari
from helpers.bundle import make_bundle
from himari_rl import cli
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.data.table import write_bars
from himari_rl.policy.alias import point

SMALLER = ["--num-episodes", "40"]  # the same road, fewer steps
DOWNLOADED = "data/coinbase/BTC-USD_1h.parquet"


def commands(program: str) -> list[list[str]]:
    """Every line of a bash block that starts with `program`, as words, without its comment."""
    lines = [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.split(" ")[0] == program]


def test_the_page_of_the_house_says_what_the_code_says() -> None:
    assert load_script("docs/house.py").main(["--check"]) == 0, "run python docs/house.py"


def test_a_file_without_its_line_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    house = load_script("docs/house.py")
    stale = tmp_path / "house.md"
    stale.write_text(house.page().replace("ledger.py", "ledgers.py"))
    monkeypatch.setattr(house, "PAGE", stale)
    assert house.main(["--check"]) == 1


def test_every_file_has_a_caption() -> None:
    house = load_script("docs/house.py")
    assert [str(path) for path in (ROOT / "src").rglob("*.py") if not house.caption(path)] == []


def test_every_link_into_the_repository_leads_to_a_file() -> None:
    targets = [link for link in re.findall(r"\]\(([^)#]+)", README) if not link.startswith("http")]
    assert targets
    assert [link for link in targets if not (ROOT / link).exists()] == []


def lost(page: str) -> list[str]:
    """Files that the glossary names and that are not there."""
    named = re.findall(r"`([\w/]+(?:\.py|\.yaml|/))`", page)
    assert len(named) > 40
    return [name for name in named if not (ROOT / "src" / "himari_rl" / name).exists() and not (ROOT / name).exists()]


def test_every_file_that_the_glossary_names_is_there() -> None:
    page = (ROOT / "docs" / "glossary.md").read_text()
    assert lost(page) == []
    assert lost(page.replace("policy/ledger.py", "policy/nowhere.py", 1)) == ["policy/nowhere.py"]  # the control


@pytest.mark.parametrize("page", sorted(path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md")), ids=str)
def test_every_link_of_the_docs_leads_to_a_file(page: Path) -> None:
    targets = [link for link in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text()) if "://" not in link]
    assert [link for link in targets if not (ROOT / page.parent / link).exists()] == []


def test_every_make_command_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    typed = [next(word for word in words[1:] if "=" not in word) for words in commands("make")]
    assert {"demo", "test"} <= set(typed)
    assert set(typed) <= targets


def named(words: list[str]) -> tuple[str, Any]:
    """The command's full name, and the command."""
    command: Any = cli.build_app()
    path = []
    for word in words[1:]:
        if word not in getattr(command, "commands", {}):
            break
        command = command.commands[word]
        path.append(word)
    return " ".join(path), command


def test_every_flag_of_every_himari_command_exists() -> None:
    assert len(commands("himari")) >= 5
    for words in commands("himari"):
        path, command = named(words)
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        assert path, words
        assert {word for word in words if word.startswith("--")} <= known, words


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `himari data fetch` would have left there."""
    folder = tmp_path_factory.mktemp("readme")
    write_bars(synthetic_bars(6000, 7), folder / DOWNLOADED)
    return folder


def answer(url: str, body: bytes | None) -> dict[str, Any]:
    """What the server answers, once it listens."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with direct.open(
                urllib.request.Request(url, body, {"content-type": "application/json"}), timeout=PATIENCE_S
            ) as reply:
                return dict(json.loads(reply.read()))
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextmanager
def serving(words: list[str], workplace: Path) -> Iterator[str]:
    """`himari serve ...` as it stands there, on a free port; gives the port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    asked = [port if word == "8080" else word for word in words[1:]]
    asked += [] if port in asked else ["--port", port]
    himari = str(Path(sys.executable).with_name("himari"))
    server = subprocess.Popen([himari, *asked], cwd=workplace, stdout=subprocess.DEVNULL)
    try:
        yield port
    finally:
        server.terminate()
        server.wait(PATIENCE_S)


def test_the_commands_run_in_the_order_they_are_shown(workplace: Path) -> None:
    ran = []
    for words in commands("himari"):
        path, _ = named(words)
        if path in ("data fetch", "serve"):  # the one needs a network, the other does not end
            continue
        result = run_himari(*words[1:], *(SMALLER if path == "train base" else []), cwd=workplace, OMP_NUM_THREADS="1")
        assert result.returncode == 0, f"{shlex.join(words)}\n{result.stdout}\n{result.stderr}"
        ran.append(path)
    assert ran == ["data audit", "train base", "evaluate"]
    [serve] = [words for words in commands("himari") if named(words)[0] == "serve"]
    [curl] = commands("curl")
    assert "8080" in serve
    with serving(serve, workplace) as port:
        url = next(word for word in curl if "/predict" in word).replace("8080", port)
        reply = answer(url, curl[curl.index("-d") + 1].encode())
    assert set(reply) == {
        "position_multiplier",
        "confidence",
        "memory",
        "memory_started",
        "latency_ms",
        "model_version",
    }
    assert 0.0 <= reply["position_multiplier"] <= 2.0


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bundles")
    return {f"--{kind}": str(make_bundle(folder / kind, kind, hidden=(4,))) for kind in ("base", "lstm", "multi")}


INLINE = {
    "init": (0, "next: cd mine"),
    "doctor": (0, "Fit."),
    "data audit": (0, "usable"),
    "data join": (0, "next: himari data audit"),
    "features check": (0, "ok   "),
    "walk-forward": (0, "next: himari gate runs/"),
    "gate": (1, "REFUSE"),
    "promote": (1, "himari: refused by"),
    "serve": (0, "base-"),
    "rollback": (0, "champion"),
    "decide": (1, "1.0"),
    "run": (0, "0 decisions"),
    "launch": (0, "nothing was asked of Google"),
}
"""Command within the README's prose -> its exit code on a synthetic market of a few months, and a part of its words."""
FURTHER = {
    "walk-forward": "--num-episodes 4 --seeds 1 --train 3mo --test 1mo --folds 1 --bootstrap-paths 0"
    " --synthetic-paths 0",
    "doctor": "--data data",
    "launch": "--model base --dry-run",
}
"""The same road, fewer steps; `himari launch` is named there with its dry run."""


def inline() -> Iterator[list[str]]:
    """Every `himari ...` with something to do in the prose and tables, with files in the places of its capitals."""
    files = {"FOLDER": "mine", "FILE": DOWNLOADED, "BARS": DOWNLOADED, "SIGNALS": "signals.csv"}
    for code in re.findall(r"`himari ([^`]+)`", README):
        words = [files.get(word, word) for word in shlex.split(code)]
        if not any(word.startswith("sb3:") for word in words):  # minutes: tests/experiments/test_adapters.py
            yield words


MINE = """
def build(frame):
    return {"up": frame["close"].diff().fillna(0.0)}


def sized(states):
    return 1.0 + 0.5 * (states[:, 13] < 0.5)
"""
"""What a reader of the README would have: an own column, an own rule."""


def test_every_command_in_the_prose_runs_too(workplace: Path, bundles: dict[str, str]) -> None:
    (workplace / "signals.csv").write_text("timestamp,signal_action\n2020-03-01T00:10:00Z,BUY\n")
    (workplace / "mine.py").write_text(MINE)
    make_bundle(workplace / "runs" / "mine", hidden=(4,), symbols=("BTC-USD",))
    ran = []
    for words in inline():
        path, _ = named(["himari", *words])
        words = [bundles[before] if word == "RUN/bundle" else word for before, word in pairwise(["", *words])]
        if path == "rollback":  # a champion and one before it, which the gate would not have let through
            for bundle in (bundles["--base"], bundles["--lstm"]):
                forced = ["promote", "champion", bundle, "--override", "a test of the way back"]
                assert himari_here(*forced, cwd=workplace).returncode == 0
        if path == "serve":  # the alias, which `promote` has left to an earlier champion
            point(str(workplace / words[-1]), bundles["--base"])
            with serving(["himari", *words], workplace) as port:
                assert INLINE[path][1] in answer(f"http://127.0.0.1:{port}/ready", None)["model_version"]
            ran.append(path)
            continue
        ask = run_himari if path == "run" else himari_here  # the runner reads a real stdin
        done = ask(*words, *FURTHER.get(path, "").split(), cwd=workplace, OMP_NUM_THREADS="1")
        code, said = INLINE[path]
        assert done.returncode == code, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
        assert said in done.stdout + done.stderr, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
        ran.append(path)
    assert set(ran) == set(INLINE)


def test_the_shown_end_of_the_tests_is_pytests() -> None:
    assert re.fullmatch(r"=+ \d+ passed(, \d+ skipped)? in [\d.]+s( \(.*\))? =+\n", blocks("console")[1])


@pytest.mark.parametrize("word", ["guaranteed", "TODO", "FIXME"])
def test_the_readme_promises_nothing_it_cannot_keep(word: str) -> None:
    assert word not in README
