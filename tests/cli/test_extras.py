"""An install with the core alone: every command answers --help, and what it lacks is one line with the pip command."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from helpers import ROOT, run_python
from helpers.bundle import make_bundle
from himari_rl import cli
from himari_rl.cli.extras import EXTRAS, missing_extra

BLOCKED = [name for names in EXTRAS.values() for name in names]
HELP = [
    *(name for names in cli.AREAS.values() for name in names),
    "train base",
    "train lstm",
    "train multi",
    "data fetch",
    "data audit",
    "config show",
]


def bare(*calls: list[str]) -> list[tuple[int, str]]:
    """(exit code, standard error) of each command where only the core is installed."""
    code = f"""
import contextlib, io, json, sys
sys.modules |= dict.fromkeys({BLOCKED!r})
from himari_rl.cli import main
found = []
for argv in {list(calls)!r}:
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        code = main(argv)
    found.append((code, err.getvalue()))
print(json.dumps(found))
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    return [(code, err) for code, err in json.loads(result.stdout.splitlines()[-1])]


def test_help_of_every_command_needs_no_extra() -> None:
    found = bare(["--help"], *([*path.split(), "--help"] for path in HELP))
    assert [(path, code, err) for path, (code, err) in zip(["", *HELP], found, strict=True) if code or err] == []


def test_a_command_that_lacks_an_extra_says_which_in_one_line(tmp_path: Path) -> None:
    bars = tmp_path / "bars.csv"
    rows = "\n".join(f"{1_600_000_000_000 + 3_600_000 * i},1,1,1,1,1" for i in range(50))
    bars.write_text(f"timestamp,open,high,low,close,volume\n{rows}\n")
    bundle = str(make_bundle(tmp_path, hidden=(4,)))
    data = ["--data", str(bars)]
    calls = {
        "train base": (["train", "base", *data, "--out", str(tmp_path / "t")], "train"),
        "certify": (["certify", "base", "--market", "M1"], "train"),
        "tune": (["tune", "base", *data], "train,judge"),
        "walk-forward": (["walk-forward", "base", *data], "train,judge"),
        "evaluate": (["evaluate", bundle, *data], "train,judge"),
        "data fetch": (["data", "fetch", "BTC-USD", "--since", "2020-01-01"], "data"),
        "data audit": (["data", "audit", str(bars)], "data"),
        "serve": (["serve", bundle, "--port", "0"], "serve"),
        "export": (["export", bundle, "--out", str(tmp_path / "x.onnx")], "onnx"),
        "sign": (["sign", bundle, "--key", str(tmp_path / "key.pem")], "sign"),
        "demo": (["demo", "--out", str(tmp_path / "demo")], "train,judge,serve"),
    }
    found = bare(*(argv for argv, _ in calls.values()))
    for (name, (_, extra)), (code, err) in zip(calls.items(), found, strict=True):
        assert code == 2, (name, err)
        lines = err.strip().splitlines()
        assert len(lines) == 1, (name, err)
        assert f"pip install 'himari-rl[{extra}]'" in lines[0], (name, err)
        assert "Traceback" not in err


def test_only_a_package_of_an_extra_is_excused() -> None:
    assert missing_extra(ModuleNotFoundError(name="torch.nn"), ["train", "base"]) == (
        "himari train needs torch, which is not installed; pip install 'himari-rl[train]'"
    )
    cluster = missing_extra(ModuleNotFoundError(name="dask"), ["walk-forward", "base"])
    assert cluster.endswith("pip install 'himari-rl[train,judge,cluster]'")
    assert missing_extra(ModuleNotFoundError(name="himari_rl.nowhere"), ["train"]) == ""


def test_a_module_of_our_own_that_is_missing_is_a_bug_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(argv: list[str]) -> int:
        raise ModuleNotFoundError(name="himari_rl.nowhere")

    monkeypatch.setattr(cli, "run", broken)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["train"])


def test_the_table_names_the_extras_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {word.split(">")[0].split("=")[0] for word in project["dependencies"]}
    assert not core & set(BLOCKED)
    offered = set(project["optional-dependencies"]) | {"judge"}
    assert set(EXTRAS) <= offered


def test_help_texts_keep_their_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "--help"]) == 0
    assert "pip install 'himari-rl[onnx]'" in capsys.readouterr().out
