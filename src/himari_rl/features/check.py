"""The prefix test for a user's own feature code: does any value change when later bars are not there yet?

    check_features(function, bars)    function(frame or Bars) -> array, Series, DataFrame or dict of columns

A value at row t that was known at the close of bar t is the same whether the file ends at t or years later. So the
function is asked about the whole history and about its first n rows, for several n, and rows below n are compared.
Unlike a test of the finished column this sees a look-ahead of any size, and a fit on the whole file too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from himari_rl.errors import ConfigError
from himari_rl.schema import Bars, FloatArray

Columns = Mapping[str, FloatArray]
CUTS = 8
MIN_ROWS = 50
SHORTEST = 0.4  # share of the rows in the shortest prefix: fits and long windows need some
WHOLE_FILE = 0.5  # of the rows before a cut change: it looks at all of them
_RTOL, _ATOL = 1e-7, 1e-9  # of a value, of the column's largest: FFTs and running sums round differently by length
_EPS = 64.0  # units in the last place, for columns in float32


@dataclass(frozen=True, kw_only=True)
class FeatureReport:
    """One column of the function."""

    column: str
    leaks: bool
    row: int  # first row that changed, -1 if none did
    cut: int  # rows that were left when it did
    value: float  # of that row with the whole history
    value_cut: float  # with `cut` rows only
    bars_ahead: int  # how far it looks at least; 0 where it does not, -1 where it looks at the whole file

    @property
    def message(self) -> str:
        if not self.leaks:
            return f"{self.column}: later bars change nothing"
        far = "the whole file (a fit or statistic over all rows)" if self.bars_ahead < 0 else f"{self.bars_ahead} bars"
        return (
            f"{self.column}: looks ahead by {far}: row {self.row} is {self.value:.6g}, and {self.value_cut:.6g} when "
            f"only the first {self.cut} rows are there"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; a missing value is None."""
        numbers = {k: v if isinstance(v, str) or np.isfinite(v) else None for k, v in asdict(self).items()}
        return numbers | {"message": self.message}


def check_features(
    function: Callable[..., Any],
    bars: Bars,
    *,
    cuts: int = CUTS,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[FeatureReport]:
    """One report a column, leaking ones first.

    Args:
        function: takes Bars where its first parameter is annotated so, a DataFrame as `Bars.to_frame` gives it
            otherwise; returns one row a bar (rows left out count as missing where it returns a pandas index).
        cuts: how many prefixes; each costs a call. Two more calls are made with all rows.
        progress: called with calls done and calls to do.

    Raises:
        ConfigError: too few bars, not a row a bar, an error inside the function, or other values on the same bars.
    """
    rows = len(bars)
    if rows < MIN_ROWS:
        raise ConfigError(f"{rows} bars to test a function with", f"{MIN_ROWS} at least", "give it more bars")
    rng = np.random.default_rng(seed)
    drawn = rng.integers(int(SHORTEST * rows), rows, size=max(cuts - 2, 0))
    lengths = sorted({rows - 1, int(SHORTEST * rows), *(int(n) for n in drawn)})
    total = len(lengths) + 2
    whole = _called(function, bars)
    progress(1, total)
    _require_same(whole, _called(function, bars))
    progress(2, total)
    found: dict[str, FeatureReport] = {}
    for done, length in enumerate(lengths, start=3):
        head = _called(function, bars[:length])
        for name, column in whole.items():
            report = _compared(name, column[:length], head.get(name), length, _tolerance(column))
            if name not in found or _worse(report, found[name]):
                found[name] = report
        progress(done, total)
    return sorted(found.values(), key=lambda report: not report.leaks)


def _worse(new: FeatureReport, old: FeatureReport) -> bool:
    """Whether it says more: a leak at all, and one that looks further (-1, the whole file, is furthest)."""
    far = [(r.leaks, r.bars_ahead < 0, r.bars_ahead) for r in (new, old)]
    return far[0] > far[1]


def _compared(
    name: str, whole: FloatArray, head: FloatArray | None, length: int, tolerance: tuple[float, float]
) -> FeatureReport:
    if head is None:
        raise ConfigError(
            f"the first {length} rows give no column {name}", "the same columns for any number of rows", ""
        )
    rtol, atol = tolerance
    changed = np.flatnonzero(~np.isclose(head, whole, rtol=rtol, atol=atol, equal_nan=True))
    if not changed.size:
        return FeatureReport(column=name, leaks=False, row=-1, cut=length, value=0.0, value_cut=0.0, bars_ahead=0)
    row = int(changed[0])
    everything = changed.size > WHOLE_FILE * max(int(np.isfinite(whole).sum()), 1)
    return FeatureReport(
        column=name,
        leaks=True,
        row=row,
        cut=length,
        value=float(whole[row]),
        value_cut=float(head[row]),
        bars_ahead=-1 if everything else length - row,
    )


def _tolerance(column: FloatArray) -> tuple[float, float]:
    """(relative, absolute) difference that is rounding in a column of this type and size."""
    finite = np.abs(column[np.isfinite(column)])
    largest = float(finite.max()) if finite.size else 0.0
    single = bool(finite.size and np.array_equal(finite.astype(np.float32).astype(np.float64), finite))
    eps = _EPS * float(np.finfo(np.float32).eps) if single and largest % 1.0 else 0.0
    return max(_RTOL, eps), max(_ATOL, eps / 8.0) * largest


def _require_same(once: Columns, again: Columns) -> None:
    for name, column in once.items():
        if name not in again or not np.allclose(column, again[name], rtol=_RTOL, atol=0.0, equal_nan=True):
            raise ConfigError(
                f"{name} has other values when the function is called twice with the same bars",
                "a deterministic function",
                "it is random or keeps state between calls: give it a seed, or make the state inside the function",
            )


def _called(function: Callable[..., Any], bars: Bars) -> dict[str, FloatArray]:
    """The columns for these bars, each (T,)."""
    try:
        answer = function(bars if _takes_bars(function) else bars.to_frame())
    except Exception as error:  # a user's code may raise anything; the message says where
        name = getattr(function, "__name__", repr(function))
        raise ConfigError(
            f"{name} raised {type(error).__name__} on {len(bars)} rows: {error}",
            "an answer for any history",
            "return NaN where rows are too few",
        ) from error
    return _columns(answer, bars)


def _takes_bars(function: Callable[..., Any]) -> bool:
    parameters = list(inspect.signature(function).parameters.values())
    annotation = parameters[0].annotation if parameters else None
    return annotation is Bars or str(annotation).rsplit(".", 1)[-1] == "Bars"


def _columns(answer: Any, bars: Bars) -> dict[str, FloatArray]:
    if isinstance(answer, Mapping):
        return {str(name): _column(values, bars) for name, values in answer.items()}
    if hasattr(answer, "columns") and hasattr(answer, "items"):  # a DataFrame
        return {str(name): _column(values, bars) for name, values in answer.items()}
    if hasattr(answer, "index") and hasattr(answer, "name"):  # a Series
        return {str(answer.name if answer.name is not None else "feature"): _column(answer, bars)}
    table = np.asarray(answer)
    if table.ndim == 2:
        return {f"column {i}": _column(table[:, i], bars) for i in range(table.shape[1])}
    return {"feature": _column(table, bars)}


def _column(values: Any, bars: Bars) -> FloatArray:
    """(T,) float64; a Series that lacks rows has NaN there, words become numbers by what they say."""
    index = getattr(values, "index", None)
    if index is not None and not callable(index) and len(values) != len(bars):
        values = values.reindex(bars.to_frame().index)
    array = np.asarray(values)
    if array.shape != (len(bars),):
        raise ConfigError(
            f"the function returned shape {array.shape} for {len(bars)} bars",
            "one row per bar",
            "fill rows without a value with NaN instead of dropping them",
        )
    if array.dtype.kind not in "fiub":
        return np.array([_number(value) for value in array.tolist()])
    return array.astype(np.float64)


def _number(value: Any) -> float:
    if value is None:
        return float("nan")
    return float(value) if isinstance(value, int | float) else float(hash(value) % 2**40)
