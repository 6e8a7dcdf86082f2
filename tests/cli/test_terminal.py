"""What a terminal shows and a pipe gets: colour, whole words, completion."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import PATIENCE_S
from himari_rl.cli import completion, main
from himari_rl.cli.console import print_words
from himari_rl.evaluation.terminal import indented

COLOUR = "\x1b["


def on_a_terminal(words: list[str], cwd: Path, **environment: str) -> str:
    """What `himari` shows on a terminal of its own, 80 columns wide."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", **environment}
    env = {name: value for name, value in env.items() if value}
    command = [sys.executable, "-m", "himari_rl", *words]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, env=env) as process:
        os.close(theirs)
        shown = b""
        while select.select([ours], [], [], PATIENCE_S)[0]:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux's way to say that the other end is closed
                break
            if not part:
                break
            shown += part
        process.wait(PATIENCE_S)
    os.close(ours)
    return shown.decode()


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colour_is_for_a_terminal_that_does_not_refuse_it(tmp_path: Path, no_color: str, coloured: bool) -> None:
    words = ["doctor", "serve", "--data", "none"]
    shown = on_a_terminal(words, tmp_path, NO_COLOR=no_color, FORCE_COLOR="", HOME=str(tmp_path))
    assert "MISSING" in shown
    assert ("\x1b[31m" in shown) is coloured
    assert ("\x1b[32m" in shown) is coloured


def test_a_pipe_gets_plain_text(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--data", str(tmp_path / "none")]) == 1
    assert COLOUR not in capfd.readouterr().out


LONG = "/a/folder/" + "with-a-long-name/" * 8 + "BTC-USD_1h.parquet"


def test_a_long_word_is_never_broken(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    print_words(f"{'word ' * 20}{LONG} {'word ' * 20}", indent=4)
    out = capsys.readouterr().out
    assert LONG in out.split()
    assert all(len(line) <= 60 for line in out.splitlines() if LONG not in line)
    assert LONG in indented(f"see {LONG} there", 40).split()


def test_the_audit_shows_its_hash_in_one_piece(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["init", str(tmp_path / "mine"), "--rows", "2000"]) == 0
    capsys.readouterr()
    main(["data", "audit", str(tmp_path / "mine" / "data"), "--json"])
    as_json = capsys.readouterr().out
    main(["data", "audit", str(tmp_path / "mine" / "data")])
    digest = as_json.partition('"sha256": "')[2][:64]
    assert digest in capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("typed", "offered", "never"),
    [
        ("himari do", {"doctor"}, {"demo"}),
        ("himari train ", {"base", "lstm", "multi"}, {"serve"}),
        ("himari walk-forward base --sym", {"--symbol", "--symbols"}, {"--seed"}),
        ("himari completion ", {"bash", "zsh", "fish"}, set()),
    ],
)
def test_the_shell_is_told_what_may_follow(
    typed: str, offered: set[str], never: set[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = typed.split()
    count = len(words) if typed.endswith(" ") else len(words) - 1
    environment = {completion.ASKED: "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(count)}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert completion.answer(environment) == 0
    found = {line.partition(",")[2] for line in capsys.readouterr().out.splitlines()}  # "plain,doctor"
    assert offered <= found
    assert not never & found


def test_bash_itself_completes(tmp_path: Path) -> None:
    himari = tmp_path / "himari"
    himari.write_text(f'#!/bin/sh\nexec {sys.executable} -m himari_rl "$@"\n')
    himari.chmod(0o755)
    script = f"""
source <({himari} completion bash)
COMP_WORDS=({himari} rollb); COMP_CWORD=1
_himari_completion {himari}
echo "${{COMPREPLY[*]}}"
"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.stdout == "rollback\n", done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_get_a_script_that_asks_himari(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert f"{completion.ASKED}={shell}_complete" in capsys.readouterr().out
