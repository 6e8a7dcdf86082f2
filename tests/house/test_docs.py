"""The docs are held to the code: made pages are the scripts', links lead somewhere, commands exist, code runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from helpers import README, ROOT, load_script
from himari_rl import cli

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
WRITTEN = ("docs/reference.py", "docs/summary.py", "docs/house_picture.py")
OLD = {"docs/decisions/LOG.md", "CHANGELOG.md", "docs/RESULTS.md"}
"""What was typed then: these pages tell what happened, and commands change."""


@pytest.mark.parametrize("script", WRITTEN)
def test_a_page_made_by_a_script_is_what_the_script_makes(script: str) -> None:
    assert load_script(script).main(["--check"]) == 0, f"run python {script}"


def test_a_page_that_is_stale_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    summary = load_script("docs/summary.py")
    (tmp_path / "page.md").write_text(summary.page().replace("+14.3", "+15.3"))
    monkeypatch.setattr(summary, "PAGE", tmp_path / "page.md")
    assert summary.main(["--check"]) == 1
    reference = load_script("docs/reference.py")
    monkeypatch.setattr(reference, "PLACE", tmp_path)
    monkeypatch.setattr(reference, "PAGES", {"cli.md": lambda: "now"})
    (tmp_path / "cli.md").write_text("then")
    assert reference.main(["--check"]) == 1


def test_a_measurement_that_is_gone_stops_the_summary() -> None:
    summary = load_script("docs/summary.py")
    results = (DOCS / "RESULTS.md").read_text()
    with pytest.raises(SystemExit, match="no section"):
        summary.measured(results.replace(summary.BELIEFS, "another"))
    with pytest.raises(SystemExit, match="no 'cash'"):
        summary.measured(results.replace("| cash |", "| money |"))


def rows(text: str) -> dict[str, list[str]]:
    """A page's table rows by their first cell; the first row of a name counts."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("|"):
            name, *cells = [cell.strip(" *") for cell in line.strip().strip("|").split("|")]
            found.setdefault(name, cells)
    return found


def test_the_readme_has_the_newest_walk_forwards_own_figures() -> None:
    part = load_script("docs/summary.py").section((DOCS / "RESULTS.md").read_text(), "2026-11-28 Walk-forwards")
    theirs, ours = rows(part), rows(README)
    for name in ("multiplier 1.0", "best one-liner of each fold", "cash"):
        btc, eth, sol, _, portfolio = theirs[name]
        assert ours[name] == [btc, eth, sol, portfolio]


def test_the_readme_is_shorter_than_150_lines_and_shows_both_pictures() -> None:
    assert len(README.splitlines()) < 150
    assert re.findall(r"!\[[^\]]+\]\((.*?)\)", README) == ["docs/img/run_card-1280-light.png", "docs/img/house.svg"]


@pytest.mark.parametrize(
    "answer",
    [
        "himari walk-forward sb3:PPO:total_timesteps=20000 --data BARS --out runs/sb3",  # how to judge one's SB3 agent
        "himari gate runs/walk/bundle` asks [every rule](docs/verdict.md#the-gate)",  # what a promotion asks
        'himari rollback champion --reason "drawdown"',  # how to roll back
    ],
)
def test_the_readme_alone_answers_what_a_stranger_asks_first(answer: str) -> None:
    assert answer in README


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Markdown's makers write them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head).replace("`", "") for head in heads]
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", head).strip().lower()) for head in plain}


def broken(page: Path, text: str) -> list[str]:
    """Links of a page that lead to no file, or to no heading of it."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in path or path.startswith("mailto:"):
            continue
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            found.append(target)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert broken(page, page.read_text()) == []


def test_a_broken_link_is_noticed() -> None:
    text = "[a](concepts.md#gate) [b](concepts.md#clock) [c](nowhere.md) [d](https://example.com/x) [e](#bundle)"
    assert broken(DOCS / "concepts.md", text) == ["concepts.md#gate", "nowhere.md"]


def nav(entry: Any) -> Iterator[str]:
    """Every page of the site's navigation."""
    if isinstance(entry, str):
        yield entry
    else:
        for inner in entry if isinstance(entry, list) else entry.values():
            yield from nav(inner)


def test_the_site_has_every_page_once_and_each_is_there() -> None:
    site = load_script("docs/site.py")
    listed = list(nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert len(listed) == len(set(listed))
    there = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert set(listed) == there | set(site.BROUGHT)
    assert all((ROOT / name).exists() for name in site.BROUGHT)


@pytest.mark.parametrize(
    ("page", "written", "moved"),
    [
        ("docs/verdict.md", "[a](serving.md#x)", "[a](serving.md#x)"),
        ("docs/verdict.md", "[a](../benchmarks/RESULTS.md)", "[a](benchmarks/RESULTS.md)"),
        ("docs/howto/serve.md", "[a](../../CHANGELOG.md)", "[a](../CHANGELOG.md)"),
        ("CONTRIBUTING.md", "[a](docs/howto/costs.md#y)", "[a](howto/costs.md#y)"),
        ("benchmarks/RESULTS.md", "[a](../docs/RESULTS.md)", "[a](../RESULTS.md)"),
        ("docs/verdict.md", "[gates](../config/gates.yaml)", "gates (`config/gates.yaml`)"),
        ("docs/verdict.md", "[config/gates.yaml](../config/gates.yaml)", "`config/gates.yaml`"),
        ("docs/verdict.md", *["![a](gate_curve.svg) [b](https://x.y) [c](#d)"] * 2),
    ],
)  # fmt: skip
def test_links_that_leave_the_docs_are_moved_for_the_site(page: str, written: str, moved: str) -> None:
    assert load_script("docs/site.py").moved(written, page) == moved


def commands_in(text: str) -> Iterator[list[str]]:
    """Every `himari ...` of a page: in shell blocks, in indented blocks, in code within a line."""
    prose = text
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        prose = prose.replace(block, "")
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and "=" in words[0]:
                words.pop(0)
            if words and words[0] == "himari":
                yield words[1:]
    prose = re.sub(r"^```.*?^```", "", prose, flags=re.MULTILINE | re.DOTALL)
    for line in re.findall(r"^ {4}himari (.*)$", prose.replace("\\\n", " "), re.MULTILINE):
        yield re.split(r"\s{2,}(?!-)|\s#|\s<", line)[0].split()
    for code in re.findall(r"`himari\s([^`]*)`", prose):
        yield code.split()


@cache
def whole_command() -> Any:
    return cli.build_app()


def unknown(words: list[str]) -> list[str]:
    """Words of a command that it does not know; alternatives (base|lstm) and names in capitals are no words."""
    command, path = whole_command(), []
    for word in words:
        inner = getattr(command, "commands", {})
        choices = [part for part in word.split("|") if part in inner]
        if not choices:
            if inner and not word.startswith("-") and word != "..." and not word.isupper():
                return [f"{' '.join(path)} {word}".strip()]
            break
        command, path = inner[choices[0]], [*path, word]
    if command.context_settings.get("ignore_unknown_options"):  # `himari launch` passes the job's own on
        return []
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
    if getattr(command, "commands", None):  # a whole group is meant
        known |= {name for one in command.commands.values() for option in one.params for name in option.opts}
    asked = [re.sub(r"[^\w-].*$", "", word) for word in words if word.startswith("--")]
    return [word for word in asked if word not in known]


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if str(page.relative_to(ROOT)) not in OLD],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_every_command_of_a_page_exists_with_its_options(page: Path) -> None:
    wrong = {" ".join(words): found for words in commands_in(page.read_text()) if (found := unknown(words))}
    assert wrong == {}


def test_a_command_that_is_not_there_is_noticed() -> None:
    page = "`himari gate X --chmpion Y`\n\n    himari trian base --data x\n\n```bash\nA=1 himari serve x --prt 1\n```\n"
    assert [unknown(words) for words in commands_in(page)] == [["--prt"], ["trian"], ["--chmpion"]]


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)], ids=lambda page: page.name)
def test_every_piece_of_python_is_python(page: Path) -> None:
    for number, block in enumerate(python_blocks(page)):
        compile(block, f"{page.name}:{number}", "exec")


@pytest.mark.parametrize(
    "page", [p for p in sorted((DOCS / "howto").glob("*.md")) if python_blocks(p)], ids=lambda p: p.name
)
def test_what_the_how_to_pages_show_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = SHOWN[page.name]
    for block in python_blocks(page):
        exec(compile(block, page.name, "exec"), {"__name__": "a_page"})
    assert shown in capsys.readouterr().out


SHOWN = {
    "costs.md": "commission 5.0 bp",
    "features.md": "leaks=False",
    "policy.md": "refused by",
    "serve.md": "1.0 refused",
}
"""A part of what each page's Python prints."""


def test_what_to_copy_is_there_to_be_copied() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`((?:[\w.]+/)+[\w.]+\.(?:py|yaml|md))`", text)
    places = (ROOT, ROOT / "src" / "himari_rl")
    assert len(named) > 20
    assert [name for name in named if not any((place / name).exists() for place in places)] == []
    for title in ("feature", "market", "baseline", "agent", "layout"):
        part = re.split(r"^## ", text, flags=re.MULTILINE)
        [page] = [each for each in part if re.match(rf"Add an? {title}\n", each)]
        assert "opy `" in page or "opy a" in page
        assert len(page.splitlines()) < 50


def test_the_hooks_before_a_commit_are_programs_of_the_environment() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    [repo] = config["repos"]
    assert repo["repo"] == "local"  # nothing is fetched from anywhere
    for hook in repo["hooks"]:
        program, *words = hook["entry"].split()
        assert program in (".venv/bin/ruff", ".venv/bin/python", ".venv/bin/lint-imports")
        assert all((ROOT / word).exists() for word in words if word.endswith(".py"))
