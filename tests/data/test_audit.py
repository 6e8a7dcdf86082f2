"""`himari data audit`: every finding by hand, one JSON document, exit 1 exactly where load_bars refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from helpers.data import HEADER, bars_at, csv_file, row, shared
from himari_rl.cli import data as data_cli
from himari_rl.cli.signature import make_group
from himari_rl.data.audit import audit, audit_files
from himari_rl.data.sources import load_bars
from himari_rl.data.table import write_bars
from himari_rl.errors import DataError, RefusedError


def himari(*arguments: str) -> tuple[int, str, BaseException | None]:
    """Exit code, stdout and the error that reached main."""
    app = make_group("himari")
    data_cli.register(app)
    result = CliRunner().invoke(app, ["data", *arguments])
    return result.exit_code, result.stdout, result.exception


def test_gaps_are_counted_measured_and_the_first_ones_named() -> None:
    report = audit(bars_at([0, 1, 2, 6, 7, 9, 10]))
    assert (report.gaps, report.missing_bars, report.largest_gap_bars) == (2, 4, 3)
    first = report.first_gaps[0]
    assert (first.after, first.before, first.missing_bars) == ("2024-01-01T02:00Z", "2024-01-01T06:00Z", 3)
    assert (report.rows, report.interval, report.start, report.end) == (
        7,
        "1h",
        "2024-01-01T00:00Z",
        "2024-01-01T10:00Z",
    )
    assert report.usable  # a gap is no reason to refuse


def test_an_outlier_is_a_return_beyond_20_robust_deviations() -> None:
    # median 0, median deviation .01, so one robust deviation is .014826 and twenty are .2965
    for largest, outliers in ((0.31, 1), (0.28, 0)):
        log_return = np.tile([0.01, 0.0, -0.01], 33)
        log_return[40] = largest
        close = 100.0 * np.exp(np.cumsum(log_return))
        report = audit(bars_at(list(range(99)), open=close, close=close, high=close, low=close))
        assert report.outliers == outliers
        for outlier in report.first_outliers:
            assert outlier.timestamp == "2024-01-02T16:00Z"  # hour 40
            assert outlier.log_return == pytest.approx(0.31)
            assert outlier.deviations == pytest.approx(0.31 / 0.014826)


def test_every_fault_of_a_raw_file_is_counted_and_the_file_is_not_usable(tmp_path: Path) -> None:
    rows = [row(0), row(2), row(1), row(3), row(3), row(4, "10,9,12,10,5"), row(5, "10,12,9,nan,5")]
    rows += [row(6, "10,12,-9,11,5"), row(7, "10,12,9,11,0"), row(8, "13,12,9,11,1")]
    (report,) = audit_files(csv_file(tmp_path, *rows))
    assert not report.usable
    assert (report.unsorted, report.duplicates, report.unreadable, report.non_positive) == (1, 1, 1, 1)
    assert (report.ohlc_violations, report.zero_volume, report.gaps) == (2, 1, 0)
    assert report.sha256 is None
    assert any("row 3 (2024-01-01T01:00Z): is earlier" in problem for problem in report.problems)
    with pytest.raises(DataError) as refused:
        load_bars(tmp_path / "BTC-USD_1h.csv")
    assert str(refused.value) in report.problems


def test_a_time_that_cannot_be_read_is_one_problem_not_three(tmp_path: Path) -> None:
    (report,) = audit_files(csv_file(tmp_path, row(0), row(1), "soon,10,12,9,11,5", row(3)))
    assert len(report.problems) == 1
    assert "the timestamp is 'soon'" in report.problems[0]
    assert (report.unreadable, report.unsorted, report.duplicates) == (1, 0, 0)


def test_files_of_one_data_set_are_one_report_and_others_are_their_own(tmp_path: Path) -> None:
    csv_file(tmp_path, row(0), row(1), name="BTC-USD_1h_a.csv")
    csv_file(tmp_path, row(4), row(5), name="BTC-USD_1h_b.csv")
    csv_file(tmp_path, row(0), row(1), name="ETH-USD_1h.csv")
    both = {report.symbol: report for report in audit_files(tmp_path)}
    assert (both["BTC-USD"].rows, both["BTC-USD"].missing_bars, both["ETH-USD"].rows) == (4, 2, 2)
    assert both["BTC-USD"].sha256 == load_bars(tmp_path, symbol="BTC-USD").fingerprint
    csv_file(tmp_path, row(5), row(6), name="BTC-USD_1h_c.csv")
    (overlapping,) = audit_files(tmp_path, symbol="BTC-USD")
    assert not overlapping.usable
    assert overlapping.duplicates == 1


def test_a_suspected_leak_is_in_the_audit_and_is_not_a_reason_to_refuse(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    price = 100.0 * np.exp(np.cumsum(0.01 * rng.standard_normal(4_001)))
    bars = bars_at(list(range(4_000)), open=price[:-1], close=price[1:])
    bars = replace(bars, high=np.maximum(bars.open, bars.close), low=np.minimum(bars.open, bars.close))
    bars = replace(bars, extra={"leak": np.r_[np.diff(bars.close), 0.0], "noise": rng.standard_normal(4_000)})
    write_bars(bars, tmp_path / "BTC-USD_1h.parquet")
    code, out, _ = himari("audit", str(tmp_path), "--json")
    (report,) = json.loads(out)["reports"]
    assert code == 0
    assert [leak["column"] for leak in report["suspected_leaks"]] == ["leak"]
    assert report["suspected_leaks"][0]["t"] > 50
    assert "suspected leak" in himari("audit", str(tmp_path))[1]


def test_json_is_one_document_and_exit_0_means_load_bars_takes_it(tmp_path: Path) -> None:
    path = csv_file(tmp_path, row(0), row(1), row(2))
    code, out, _ = himari("audit", str(path), "--json")
    document = json.loads(out)
    assert (code, document["usable"], document["reports"][0]["rows"]) == (0, True, 3)
    assert document["reports"][0]["sha256"] == load_bars(path).fingerprint


def test_unusable_data_is_shown_and_refused_with_exit_code_1(tmp_path: Path) -> None:
    path = csv_file(tmp_path, row(0), row(0))
    code, out, error = himari("audit", str(path), "--json")
    assert code == 1
    assert json.loads(out)["usable"] is False
    assert isinstance(error, RefusedError)
    assert error.exit_code == 1
    assert "1 of 1 data sets cannot be used" in str(error)
    assert "cannot be used" in himari("audit", str(path))[1]


@pytest.mark.parametrize("content", ["", "rubbish", HEADER, "a,b\n1,2\n"])
def test_a_file_that_cannot_be_read_is_reported_not_raised(tmp_path: Path, content: str) -> None:
    path = tmp_path / "BTC-USD_1h.csv"
    path.write_text(content)
    (report,) = audit_files(path)
    assert not report.usable
    assert report.problems
    json.dumps(report.as_json(), allow_nan=False)


def test_a_path_that_does_not_exist_is_bad_input() -> None:
    _, _, error = himari("audit", "no/such.csv")
    assert isinstance(error, DataError)
    assert error.exit_code == 2


@pytest.mark.parametrize("command", ["fetch", "audit"])
def test_help_shows_an_example_and_json(command: str) -> None:
    code, out, _ = himari(command, "--help")
    assert code == 0
    assert f"Example: himari data {command}" in out
    assert "--json" in out


def test_the_real_data_audits_as_its_provenance_says() -> None:
    """27 gaps of 122 bars, the largest 33, in 63,406 rows of Binance BTC."""
    (report,) = audit_files(shared("binance-spot/BTC-USDT_1h.parquet"))
    found = (report.rows, report.gaps, report.missing_bars, report.largest_gap_bars, report.duplicates)
    assert found == (63_406, 27, 122, 33, 0)
    assert report.usable
