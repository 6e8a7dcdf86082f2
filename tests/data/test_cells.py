"""Columns of pyarrow become arrays: every cell in its place, a missing one marked, and pandas stays out of it."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from himari_rl.data.cells import floats, integers
from himari_rl.data.synthetic import synthetic_bars
from himari_rl.data.table import write_bars

NAN = float("nan")


@pytest.mark.parametrize(
    ("kind", "chunks", "expected"),
    [
        (pa.float64(), [[1.5, None], [], [3.0]], [1.5, NAN, 3.0]),
        (pa.float32(), [[0.5]], [0.5]),
        (pa.int64(), [[1, 2**53], [None]], [1.0, 2.0**53, NAN]),
        (pa.decimal128(5, 2), [[Decimal("1.25"), None]], [1.25, NAN]),
        (pa.float64(), [], []),
    ],
)
def test_numbers_of_any_type_become_float64(kind: pa.DataType, chunks: list, expected: list[float]) -> None:
    assert np.array_equal(floats(pa.chunked_array(chunks, kind)), np.array(expected), equal_nan=True)


def test_a_slice_of_a_column_is_that_slice() -> None:
    column = pa.chunked_array([pa.array([0.0, 1.0, 2.0]), pa.array([3.0, 4.0])])
    assert floats(column.slice(2, 2)).tolist() == [2.0, 3.0]
    assert integers(pa.array([7, 8, 9]).slice(1)).tolist() == [8, 9]
    assert integers(pa.array([True, False, True]).slice(1)).tolist() == [0, 1]


def test_integers_are_exact_and_a_missing_one_is_zero() -> None:
    moments = pa.array([2**53 + 1, None], pa.int64()).cast(pa.timestamp("ns"))
    assert integers(moments).tolist() == [2**53 + 1, 0]
    assert integers(pa.chunked_array([], pa.int64())).tolist() == []


def test_the_array_is_the_readers_own() -> None:
    source = pa.array([1.0, 2.0])
    found = floats(source)
    found[0] = 9.0
    assert source.to_pylist() == [1.0, 2.0]


def test_reading_a_file_leaves_pandas_out(tmp_path: Path) -> None:
    """Importing it is .3 CPU seconds and 50 MB in every process that reads bars."""
    for name in ("A_1h.parquet", "B_1h.csv.gz"):
        write_bars(synthetic_bars(300, 0), tmp_path / name)
    code = (
        "import sys; from himari_rl.data.sources import load_bars\n"
        "for name in ('A_1h.parquet', 'B_1h.csv.gz'): assert len(load_bars(name)) == 300\n"
        "assert 'pandas' not in sys.modules\n"
        "import pyarrow; pyarrow.array([1.0]).to_numpy()\n"
        "assert 'pandas' in sys.modules"  # this test can fail
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
