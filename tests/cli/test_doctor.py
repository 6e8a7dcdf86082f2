"""himari doctor: what is missing is named with its cure, and nobody outside is asked."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from himari_rl.cli import checkup, main
from himari_rl.cli.extras import EXTRAS


@pytest.fixture(autouse=True)
def _at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder, no credentials, and sockets that reach nobody."""
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def connect(*_: object) -> None:
        raise AssertionError("the doctor asked the network")

    monkeypatch.setattr(socket.socket, "connect", connect)


def document(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    code = main(["doctor", *words, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["fit"] is (code == 0)
    return code, {finding["name"]: finding for finding in found["findings"]}


def test_a_machine_that_has_what_was_named_is_fit(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = document(capsys, *EXTRAS)
    assert code == 0, [finding for finding in found.values() if finding["state"] == "missing"]
    assert found["python"]["said"].startswith(".".join(map(str, sys.version_info[:3])))
    assert {f"extra {name}" for name in EXTRAS} <= set(found)
    assert found["data"] == {
        "name": "data",
        "state": "absent",
        "said": "no bars in data",
        "cure": found["data"]["cure"],
    }
    assert "himari init" in found["data"]["cure"]


def test_an_extra_that_was_named_and_is_not_here_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXTRAS, "serve", ("fastapi", "no_such_package"))
    _, found = document(capsys)
    assert found["extra serve"]["state"] == "absent"  # nobody asked for it
    code, found = document(capsys, "serve")
    assert code == 1
    assert found["extra serve"]["state"] == "missing"
    assert found["extra serve"]["said"] == "without no_such_package"
    assert found["extra serve"]["cure"] == "pip install 'himari-rl[serve]'"


def test_what_trains_asks_for_what_reads_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "data", ("no_such_package",))
    states = {finding.name: finding.state for finding in checkup.extras(["train"])}
    assert states["extra data"] == "missing"


def test_bars_that_were_named_must_be_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, found = document(capsys, "--data", "mine")
    assert (code, found["data"]["state"]) == (1, "missing")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "BTC-USD_1h.csv").touch()
    code, found = document(capsys, "--data", "mine")
    assert (code, found["data"]["said"]) == (0, "1 files in mine, the first mine/BTC-USD_1h.csv")


def test_credentials_are_looked_for_and_never_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, found = document(capsys)
    assert found["cloud credentials"]["state"] == "absent"
    assert "gcloud auth" in found["cloud credentials"]["cure"]
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    code, found = document(capsys)
    assert (code, found["cloud credentials"]["state"]) == (1, "missing")
    (tmp_path / "key.json").write_text("a secret")
    code, found = document(capsys)
    assert (code, found["cloud credentials"]["state"]) == (0, "ok")
    assert "a secret" not in json.dumps(found)


@pytest.mark.parametrize(
    ("version", "bound", "fit"),
    [
        ("2.1.3", ">=2.1", True),
        ("2.0.9", ">=2.1", False),
        ("0.55.0", "<0.55", False),
        ("0.54.9", "<0.55", True),
        ("2.13.0+cpu", "==2.13.0", True),
        ("2.14.0", "==2.13.0", False),
        ("3.0", ">=3", True),
        ("10.0", ">=9.5", True),
        ("1.0", "~=0.9", True),
    ],
)
def test_a_version_is_within_its_bound_or_not(version: str, bound: str, fit: bool) -> None:
    assert checkup.fits(version, bound) is fit


def test_a_package_of_another_version_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"numpy": "1.26.4", "uvicorn": "0.56.0", "setuptools": "65.5.0"}

    def version(name: str) -> str:
        if name not in here:
            raise checkup.metadata.PackageNotFoundError(name)
        return here[name]

    monkeypatch.setattr(checkup.metadata, "version", version)
    asked = ["numpy>=2.1", "rich>=13.9", 'uvicorn<0.55,>=0.32; extra == "serve"', 'torch==2.13.0; extra == "train"']
    asked += ['setuptools>=77; extra == "dev"']  # of work on this project, which nobody asked for
    assert list(checkup.out_of_bounds(asked)) == [
        ("numpy", "1.26.4", ">=2.1", ""),
        ("rich", "", ">=13.9", ""),
        ("uvicorn", "0.56.0", ">=0.32,<0.55", "serve"),
    ]
    monkeypatch.setattr(checkup.metadata, "requires", lambda _: asked)
    states = {needed: {f.name: f.state for f in checkup.versions([needed])} for needed in ("data", "serve")}
    assert {each["numpy"] for each in states.values()} == {"missing"}
    assert (states["data"]["uvicorn"], states["serve"]["uvicorn"]) == ("absent", "missing")


def test_a_wrong_name_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "gpu"]) == 2
    assert "no extra is called 'gpu'; expected one of data, train" in capsys.readouterr().err


def test_people_get_a_line_each_with_the_cure_behind_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkup, "DISK_GIB", 1e9)
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    [disk] = [line for line in lines if " disk " in line]
    assert disk.startswith("MISSING  disk ")
    assert lines[-1] == "1 to mend"
