"""One symbol's bars and a panel of several answer the same questions, so that most code need not know which it has."""

from __future__ import annotations

import pytest

from helpers.data import bars_at
from himari_rl.data.checks import require_rows
from himari_rl.data.panel import panel_of
from himari_rl.errors import DataError
from himari_rl.features.signals import signals_of
from himari_rl.schema import HOUR_MS, History

A = bars_at([0, 1, 2, 3], symbol="A-USD")
B = bars_at([1, 2, 3, 4], symbol="B-USD")


@pytest.mark.parametrize(
    ("history", "symbols", "rows"), [(A, ("A-USD",), 4), (panel_of([A, B]), ("A-USD", "B-USD"), 3)], ids=["one", "two"]
)
def test_both_answer_alike(history: History, symbols: tuple[str, ...], rows: int) -> None:
    assert (history.symbols, len(history), history.interval_ms) == (symbols, rows, HOUR_MS)
    assert tuple(bars.symbol for bars in history.each) == symbols
    assert history.timestamp.shape == (rows,)
    assert (history.source, history.synthetic) == (", ".join(["by hand"] * len(symbols)), False)
    assert len(history[1:3]) == 2
    assert history[1:3].symbols == symbols
    assert history.fingerprint != history[: rows - 1].fingerprint
    require_rows(history, rows, "for one decision")
    with pytest.raises(DataError, match=f"at least {rows + 1} for two"):
        require_rows(history, rows + 1, "for two")


def test_signals_are_supplied_only_where_every_symbol_has_its_own() -> None:
    said = signals_of(A)
    own = bars_at([0, 1, 2, 3], symbol="A-USD", signals=type(said)(**(vars(said) | {"supplied": True})))
    ours = bars_at([0, 1, 2, 3], symbol="C-USD", signals=said)
    other = bars_at([0, 1, 2, 3], symbol="D-USD", signals=own.signals)
    assert own.signals_supplied
    assert not ours.signals_supplied
    assert not panel_of([own, ours]).signals_supplied
    assert not panel_of([own, B]).signals_supplied
    assert panel_of([own, other]).signals_supplied


def test_a_panels_fingerprint_tells_its_order_and_its_bars() -> None:
    assert panel_of([A, B]).fingerprint != panel_of([B, A]).fingerprint
    assert panel_of([A, B]).fingerprint == panel_of([A[:], B[:]]).fingerprint
    assert A.fingerprint == bars_at([0, 1, 2, 3], symbol="Z-USD").fingerprint  # one symbol's name is left out
