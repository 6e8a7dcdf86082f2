"""The guides for Google Cloud: every command in them is read by its own parser."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from helpers import PATIENCE_S, ROOT, load_script
from himari_rl.cli import command_for, main, spread_lists

GUIDES = ("GCP_RL_DEPLOYMENT_GUIDE.md", "ADVANCED_MODELS_GUIDE.md")
SHELL = ("export", "docker", "terraform", "curl")


def lines_of(guide: str) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs" / guide).read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip() and not line.startswith("#")]


LINES = [(guide, line) for guide in GUIDES for line in lines_of(guide)]
OURS = [each for each in LINES if each[1].split()[0] in ("himari", "python")]
GCLOUD = [each for each in LINES if each[1].startswith("gcloud")]


def parsed(words: list[str]) -> None:
    """Reads a command line of himari, and runs nothing.

    Raises:
        TyperException: the command would refuse it.
    """
    command: Any = command_for(words)
    rest = spread_lists(command, words)
    while getattr(command, "commands", None):
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context("himari", list(rest))


def read(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    first, *words = shlex.split(line)
    if first == "himari":
        parsed(words)
        return
    script, *words = words
    if script.endswith("launch_training.py"):
        assert main(["launch", *words, "--dry-run"]) == 0, capsys.readouterr().err
    elif script.endswith("setup_monitoring.py"):
        parsed(["monitoring", *words])
    else:
        load_script(script).arguments().parse_args(words)


@pytest.mark.parametrize(("guide", "line"), OURS, ids=[line for _, line in OURS])
def test_a_command_of_ours_is_read_by_its_own_parser(guide: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    read(line, capsys)


@pytest.mark.parametrize(
    "line",
    [
        "himari gate --chmpion x y",
        "python vertex_training/trainer.py --num-episode 3",
        "python vertex_training/launch_training.py --model base --symbols A",
        "python monitoring/setup_monitoring.py --mail x",
    ],
)
def test_a_wrong_command_in_a_guide_would_be_noticed(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BaseException):  # noqa: B017  # each parser has its own
        read(line, capsys)


def test_every_other_line_is_the_shells_or_gclouds() -> None:
    others = {line.split()[0] for _, line in LINES if (line not in [each for _, each in OURS])}
    assert others <= {*SHELL, "gcloud"}
    assert len(OURS) > 20


def test_gclouds_own_parser_takes_the_guides_gcloud_commands(tmp_path: Path) -> None:
    program = shutil.which("gcloud")
    if program is None:
        pytest.skip("no gcloud")
    env = {"PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path)}
    env |= {
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "DOCKER_CONFIG": str(tmp_path),
        "CLOUDSDK_CORE_PROJECT": "project-one",
    }
    (tmp_path / "build").mkdir()
    shutil.copy(ROOT / "config" / "service.yaml", tmp_path / "build")
    for _, line in GCLOUD:
        if " auth " in line:  # it would ask a person
            continue
        done = subprocess.run(
            [program, *shlex.split(line)[1:]],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
            env=env,
            cwd=tmp_path,
        )
        assert done.returncode != 2, done.stderr
        assert "unrecognized arguments" not in done.stderr


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_has_the_cards_checklists_and_both_names(guide: str) -> None:
    text = (ROOT / "docs" / guide).read_text()
    for title in ("## Before training", "## After each model"):
        part = text.partition(title)[2].partition("\n## ")[0]
        assert part.count("- [ ]") >= 4
    if guide.startswith("GCP"):
        assert "Vertex AI" in text
        assert "Gemini Enterprise" in text
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    assert all((ROOT / "docs" / link).exists() for link in links)
