"""himari evaluate: a verdict for people and machines, and no verdict on bars that training saw."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.bundle import make_bundle
from helpers.evaluation import bars_from, walk
from himari_rl.cli import evaluate as area
from himari_rl.cli.signature import make_group
from himari_rl.errors import BundleError, ConfigError, DataError, HimariError
from himari_rl.schema import HOUR_MS

TRAINED = {
    "sha256": "0" * 64,
    "source": "a test",
    "start": "2024-01-01T00:00:00Z",
    "end": "2024-01-20T00:00:00Z",
    "rows": 457,
    "interval_ms": HOUR_MS,
    "synthetic": False,
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """800 recorded hours from 2024-01-01; the last fifth starts on 2024-01-27 at 16:00."""
    bars = bars_from(walk(800, 0), np.append(walk(800, 0)[1:], 100.0), synthetic=False, signals=None)
    path = tmp_path / "BTC-USDT_1h.csv"
    columns = bars.columns()
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    path.write_text("\n".join([",".join(columns), *(",".join(map(repr, row)) for row in rows)]))
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path, hidden=(8,), training_data=TRAINED)


def run(*arguments: str | Path) -> int:
    """The command on an app of its own; raises what the root command would print as one line."""
    app = make_group("himari")
    area.register(app)
    code = app.main([str(a) for a in ("evaluate", *arguments)], standalone_mode=False)
    return int(code or 0)


def test_it_prints_one_json_document_and_leaves_it_in_the_bundle(
    bundle: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(bundle, "--data", data, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((bundle / "evaluation.json").read_text())
    assert document["verdict"]["decisions"] == 160 - 2
    assert document["verdict"]["start"] == "2024-01-27T17:00Z"
    assert (document["signals"], document["seen_in_training"], document["synthetic"]) == ("reference", False, False)
    assert {row["variant"] for row in document["verdict"]["summaries"]} == {"x1", "x2", "x3", "lag"}


def test_people_get_tables_a_sentence_and_what_to_know_about_the_data(
    bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(bundle, "--data", data, "--costs", "5", "--html", tmp_path / "deep" / "equity.html") == 0
    out = capsys.readouterr().out
    assert "multiplier 1.0" in out
    assert "costs x5" in out
    assert "causal reference signal" in " ".join(out.split())
    assert "<html" in (tmp_path / "deep" / "equity.html").read_text()[:200]


def test_two_runs_of_one_seed_agree_and_the_bundle_still_loads(
    bundle: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(bundle, "--data", data, "--json")  # the first look says that its ledger begins
    capsys.readouterr()
    for _ in range(2):
        run(bundle, "--data", data, "--json")
    out = capsys.readouterr().out
    assert out[: len(out) // 2] == out[len(out) // 2 :]


@pytest.mark.parametrize(
    ("start", "end", "seen"),
    [
        ("2024-01-01T00:00:00Z", "2024-01-27T15:00:00Z", False),  # ends the bar before the first judged one
        ("2024-01-01T00:00:00Z", "2024-01-27T16:00:00Z", True),
        ("2024-02-03T07:00:00Z", "2024-12-31T00:00:00Z", True),  # starts with the last judged bar
        ("2024-02-03T08:00:00Z", "2024-12-31T00:00:00Z", False),
    ],
)
def test_bars_of_the_training_span_are_refused(
    tmp_path: Path, data: Path, start: str, end: str, seen: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path, hidden=(8,), training_data=TRAINED | {"start": start, "end": end})
    if not seen:
        assert run(bundle, "--data", data, "--json") == 0
        return
    with pytest.raises(DataError, match="overlap the training span"):
        run(bundle, "--data", data, "--json")
    assert not (bundle / "evaluation.json").exists()
    assert run(bundle, "--data", data, "--json", "--allow-seen") == 0
    assert json.loads(capsys.readouterr().out)["seen_in_training"] is True


def test_the_dates_of_a_synthetic_market_say_nothing_about_a_recorded_one(tmp_path: Path, data: Path) -> None:
    changed = TRAINED | {"synthetic": True, "end": "2024-12-31T00:00:00Z"}
    assert run(make_bundle(tmp_path, hidden=(8,), training_data=changed), "--data", data, "--json") == 0


@pytest.mark.parametrize(
    ("kind", "arguments", "error", "words"),
    [
        ("multi", [], DataError, "no data of ETH-USDT"),
        ("base", ["--costs", "-1"], ConfigError, "cost multiple -1.0"),
        ("base", ["--costs", "nan"], ConfigError, "cost multiple nan"),
        ("base", ["--test-fraction", "0.05"], DataError, "38 decisions to judge"),
        ("base", ["--trials", "0"], ConfigError, "0 trials"),
    ],
)
def test_bad_input_gets_one_line_and_writes_nothing(
    tmp_path: Path, data: Path, kind: str, arguments: list[str], error: type[HimariError], words: str
) -> None:
    bundle = make_bundle(tmp_path, kind, hidden=(8,), training_data=TRAINED)
    with pytest.raises(error, match=words):
        run(bundle, "--data", data, *arguments)
    assert not (bundle / "evaluation.json").exists()


def test_a_missing_bundle_is_named(tmp_path: Path, data: Path) -> None:
    with pytest.raises(BundleError, match="no policy bundle at"):
        run(tmp_path / "nowhere", "--data", data)


def test_a_suspected_look_ahead_ends_with_exit_code_one(
    bundle: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from himari_rl.evaluation import verdict

    def leaky(*_: object) -> verdict.LagTest:
        return verdict.LagTest(sharpe=5.0, lagged_sharpe=0.0, z=9.0, suspected=True)

    assert run(bundle, "--data", data) == 0
    monkeypatch.setattr(verdict, "lag_test", leaky)
    assert run(bundle, "--data", data) == 1
    assert json.loads((bundle / "evaluation.json").read_text())["verdict"]["answer"] == "look_ahead"


def test_evaluating_imports_no_torch() -> None:
    from helpers import run_python

    code = (
        "import sys, himari_rl.cli.evaluate, himari_rl.evaluation.display, himari_rl.evaluation.verdict;"
        "print([m for m in ('torch', 'gymnasium', 'jinja2', 'pandas') if m in sys.modules])"
    )
    result = run_python(code)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


def test_the_data_fixture_is_what_it_says(data: Path) -> None:
    from himari_rl.data.sources import load_bars

    np.testing.assert_allclose(load_bars(data).open, walk(800, 0), rtol=1e-12)
