"""The errors that a newcomer meets first: docs/troubleshooting.md shows each, and its cure has to work.

Every command of the page's numbered sections is run as it stands there, in one folder, in the page's order.
"""

from __future__ import annotations

import gc
import json
import random
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from helpers import ROOT
from helpers.asgi import AsgiClient
from helpers.bundle import make_bundle
from himari_rl.cli import main
from himari_rl.serving.http import run as server
from himari_rl.serving.http.app import create_app

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()


class Lesson(NamedTuple):
    """One numbered section: what is typed, what it says, what cures it."""

    title: str
    typed: str
    said: str
    cures: list[str]


def lessons(page: str) -> Iterator[Lesson]:
    for part in re.split(r"^### \d+\. ", page, flags=re.MULTILINE)[1:]:
        part = part.partition("\n## ")[0]
        [shown] = re.findall(r"^```console\n\$ (.*?)\n(.*?)\n```$", part, re.MULTILINE | re.DOTALL)
        [cure] = re.findall(r"^```bash\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
        yield Lesson(part.partition("\n")[0], *shown, cure.splitlines())


LESSONS = list(lessons(PAGE))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What somebody has who follows the page: bars of two kinds, signals to come, a bundle."""
    folder = tmp_path_factory.mktemp("newcomer")
    rng, price, hours = random.Random(0), 100.0, []
    for i in range(600):
        last, price = price, price * (1.0 + rng.gauss(0.0, 0.01))
        high, low = max(last, price) * 1.002, min(last, price) * 0.998
        hours.append(
            f"2024-01-{1 + i // 24:02d}T{i % 24:02d}:00:00Z,{last},{high},{low},{price},{rng.uniform(1.0, 9.0)}"
        )
    (folder / "amount.csv").write_text("\n".join(["timestamp,open,high,low,close,amount", *hours]) + "\n")
    hours[10], hours[11] = hours[11], hours[10]
    (folder / "unsorted.csv").write_text("\n".join(["timestamp,open,high,low,close,volume", *hours]) + "\n")
    made = make_bundle(folder, hidden=(8,))
    made.rename(folder / "moved")
    (folder / "runs" / "mine").mkdir(parents=True)
    (folder / "moved").rename(folder / "runs" / "mine" / "bundle")
    return folder


@pytest.fixture
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(place)
    monkeypatch.setenv("HIMARI_TRIALS", str(place / "trials.sqlite"))
    monkeypatch.setattr(server, "serve", lambda app, sock: sock.close())  # a server that is stopped at once
    monkeypatch.setattr(server, "listen", lambda host, port, listen=server.listen: listen("127.0.0.1", 0))
    yield place
    gc.enable()  # `himari serve` leaves it off for its process


def typed(line: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> tuple[int, str]:
    """Exit code and what was said, of a line of the page."""
    words = shlex.split(line)
    while "=" in words[0]:  # VARIABLE=value before the command
        name, _, value = words.pop(0).partition("=")
        monkeypatch.setenv(name, value)
    if words[0] == "himari":
        code = main(words[1:])
        out, err = capsys.readouterr()
        return code, err or out
    if words[0] == "curl":
        with AsgiClient(create_app(str(place / "runs" / "mine" / "bundle"))) as client:
            answer = client.post("/predict", content=words[words.index("-d") + 1].encode())
        return int(answer.status_code != 200), answer.text
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, cwd=place)
    return done.returncode, done.stderr


def test_the_page_has_at_least_ten_and_each_has_a_cure() -> None:
    assert len(LESSONS) >= 10
    assert all(lesson.cures for lesson in LESSONS)


@pytest.mark.parametrize("lesson", LESSONS, ids=[lesson.title for lesson in LESSONS])
def test_the_error_is_the_one_shown_and_its_cure_cures(
    lesson: Lesson, there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = typed(lesson.typed, there, monkeypatch, capsys)
    assert code != 0
    last = [line for line in said.splitlines() if line.strip()][-1]
    assert lesson.said in last
    if lesson.typed.startswith("himari"):
        assert lesson.said == last.strip()
    for cure in lesson.cures:
        code, said = typed(cure, there, monkeypatch, capsys)
        assert code == 0, said


def test_an_error_that_says_something_else_would_be_noticed(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = next(lessons(PAGE.replace("does not exist", "is nowhere", 1)))
    assert typed(changed.typed, there, monkeypatch, capsys)[1].strip() != changed.said


def test_json_answers_of_the_page_are_json() -> None:
    for lesson in LESSONS:
        for line in (lesson.typed, *lesson.cures):
            if line.startswith("curl"):
                words = shlex.split(line)
                assert set(json.loads(words[words.index("-d") + 1])) == {"state"}
