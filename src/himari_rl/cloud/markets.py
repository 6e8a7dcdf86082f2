"""Which files of a bucket a job trains on: the symbols it names, in whatever dollar they are quoted there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from himari_rl.data.panel import Panel, bars_of, load_panel
from himari_rl.data.sources import find
from himari_rl.data.table import name_parts
from himari_rl.schema import Bars

_DOLLARS = ("USD", "USDT", "USDC")


def load_market(
    data: Sequence[str],
    kind: str,
    symbols: Sequence[str],
    interval: str | None,
    tell: Callable[[str], None] = lambda line: None,
) -> Bars | Panel:
    """The bars of one symbol, or of several as a panel, from files and folders, local or gs://.

    A symbol that is not there is taken from the one dollar market of the same asset that is, BTC-USDT for BTC-USD; that
    is said, and the policy carries the name of what it was trained on.

    Raises:
        DataError, ConfigError: as load_bars and load_panel.
    """
    files = find(data)
    chosen = [_there(symbol, files, tell) for symbol in symbols]
    if kind == "multi":
        return load_panel(files, chosen, interval)
    return bars_of(files, chosen[0], interval)


def _there(symbol: str, files: Sequence[Path], tell: Callable[[str], None]) -> str:
    wanted, held = symbol.replace("/", "-").upper(), dict.fromkeys(name_parts(file)[0].upper() for file in files)
    if wanted in held:
        return wanted
    asset, _, quote = wanted.partition("-")
    same = [name for name in held if name.partition("-")[0] == asset and name.partition("-")[2] in _DOLLARS]
    if quote in _DOLLARS and len(same) == 1:
        tell(f"no bars of {wanted}: {same[0]}, the only dollar market of {asset} here, is trained on instead")
        return same[0]
    return wanted
