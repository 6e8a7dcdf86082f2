"""What can be asked of a history alike, whether it is one symbol's bars or a panel."""

from __future__ import annotations

from himari_rl.data.panel import Panel, panel_fingerprint
from himari_rl.data.sources import fingerprint
from himari_rl.errors import DataError
from himari_rl.schema import Bars


def each_of(history: Bars | Panel) -> tuple[Bars, ...]:
    """Every symbol's bars."""
    return history.bars if isinstance(history, Panel) else (history,)


def symbols_of(history: Bars | Panel) -> tuple[str, ...]:
    """Every symbol, in the order of states and answers."""
    return tuple(bars.symbol for bars in each_of(history))


def fingerprint_of(history: Bars | Panel) -> str:
    """sha256 (hex) of the bars, and of a panel's order and span."""
    return panel_fingerprint(history) if isinstance(history, Panel) else fingerprint(history)


def supplied(history: Bars | Panel) -> bool:
    """Whether the data itself has Layer 2's columns, for every symbol."""
    return all(bars.signals is not None for bars in each_of(history))


def require_rows(history: Bars | Panel, rows: int, why: str) -> None:
    """Refuses a history that is too short.

    Raises:
        DataError: fewer than `rows`; `why` says who needs them.
    """
    if len(history) < rows:
        raise DataError(
            f"{history.source} has {len(history):,} bars", f"at least {rows:,} {why}", "bring a longer history"
        )
