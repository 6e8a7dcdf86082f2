"""himari init: a folder in which the real commands work as its own README shows them."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from himari_rl.cli import check, init, main
from himari_rl.cli.settings import COMMANDS, resolved
from himari_rl.data.sources import load_bars


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("init") / "mine"
    assert main(["init", str(folder), "--rows", "3000", "--json"]) == 0
    return folder


def test_the_files_are_there_and_the_bars_say_that_they_are_synthetic(project: Path) -> None:
    assert {path.name for path in project.iterdir()} == {"run.yaml", "README.md", ".gitignore", "data"}
    bars = load_bars(str(project / init.BARS))
    assert bars.synthetic
    assert len(bars) == 3000
    assert "SYNTHETIC" in (project / "README.md").read_text()


def test_the_same_seed_is_the_same_market_and_another_is_another(project: Path, tmp_path: Path) -> None:
    for name, seed in (("same", "0"), ("other", "1")):
        assert main(["init", str(tmp_path / name), "--rows", "3000", "--seed", seed]) == 0
    files = [(folder / init.BARS).read_bytes() for folder in (project, tmp_path / "same", tmp_path / "other")]
    assert files[0] == files[1] != files[2]


def test_every_line_of_run_yaml_is_explained(project: Path) -> None:
    lines = (project / "run.yaml").read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if re.match(r"\s+\w+: \S", line):
            assert before.lstrip().startswith("# "), line


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_run_yaml(project: Path, command: str) -> None:
    file = str(project / "run.yaml")
    found = resolved(command, "base", file)
    said = yaml.safe_load((project / "run.yaml").read_text())
    for section in found.sections.keys() & said.keys():
        assert {s.origin for s in found.settings.values() if s.key.startswith(f"{section}.")} >= {"run.yaml"}
        assert found[section]  # its component takes it


def test_values_are_the_defaults_but_for_what_makes_a_first_run_short(project: Path) -> None:
    for command in ("train", "walk-forward", "gate", "serve"):
        given, usual = (resolved(command, "base", file).settings for file in (str(project / "run.yaml"), None))
        different = {key for key in usual if given[key].value != usual[key].value}
        assert different <= set(init.SMALL), command


def test_the_commands_of_its_readme_work_there(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("HOME", str(project))
    lines = re.findall(r"^    himari (.*?)(?:  .*)?$", (project / "README.md").read_text(), re.MULTILINE)
    commands = {words[0]: words for words in map(shlex.split, lines)}
    assert list(commands) == ["doctor", "data", "train", "evaluate", "walk-forward", "gate", "report", "serve"]
    assert main(commands["data"]) == 0
    assert main([*commands["train"], "--num-episodes", "20", "--seeds", "1"]) == 0
    for name in ("evaluate", "walk-forward", "gate", "serve"):  # words and settings are read; others run them
        assert check(commands[name]).settings
    assert json.loads((project / "runs" / "first" / "bundle" / "manifest.json").read_text())["kind"] == "base"


def test_nothing_that_is_there_is_written_over(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (project / "run.yaml").read_text()
    assert main(["init", str(project)]) == 2
    assert "holds run.yaml; expected a folder without it; choose another folder" in capsys.readouterr().err
    assert (project / "run.yaml").read_text() == before
