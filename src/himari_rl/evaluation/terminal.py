"""The shapes of what is printed: a table of figures, a check with its sentence, plain text; all fit eighty columns.

Lines need nothing but Python, so that a server's install can show them; tables, frames and bars are rich's, which comes
with the extras that train and judge.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

INDENT = 8
COLUMNS = 80
CODES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}
"""What a terminal is told for each style (ECMA-48, SGR)."""


def styled(text: str, style: str = "", stream: IO[str] | None = None) -> str:
    """Text in a style, for example "bold red", where the stream (stdout) is a terminal that wants colour.

    NO_COLOR (no-color.org) and TERM=dumb do not want it; FORCE_COLOR does, in a pipe too.
    """
    out = sys.stdout if stream is None else stream
    wanted = not os.environ.get("NO_COLOR") and (
        bool(os.environ.get("FORCE_COLOR")) or (out.isatty() and os.environ.get("TERM") != "dumb")
    )
    if not text or not style or not wanted:
        return text
    return f"\x1b[{';'.join(str(CODES[word]) for word in style.split())}m{text}\x1b[0m"


def say(text: str, style: str = "", stream: IO[str] | None = None) -> None:
    """A line on a stream (stdout) as it is: never wrapped, so that a path in it can be copied; seen at once."""
    out = sys.stdout if stream is None else stream
    out.write(styled(text, style, out) + "\n")
    out.flush()


def width() -> int:
    """Columns of the terminal; eighty where there is none."""
    return shutil.get_terminal_size().columns


def figures(title: str, first: str, numbers: Iterable[str]) -> Table:
    """An empty table: a column of names, and columns of numbers to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def print_check(passed: bool, head: str, why: str = "", stream: IO[str] | None = None) -> None:
    """`pass` or `REFUSE` before the check's own line, and why below it, indented."""
    mark = styled("pass  ", "green", stream) if passed else styled("REFUSE", "red", stream)
    say(f"{mark}  {head}", stream=stream)
    if why:
        say(indented(why, width()), "dim", stream)


def indented(text: str, width: int) -> str:
    """Prose under its head, indented, in lines of `width` columns; a path or a hash is copied whole."""
    lead = " " * INDENT
    return textwrap.fill(
        text, width, initial_indent=lead, subsequent_indent=lead, break_on_hyphens=False, break_long_words=False
    )


def wrapped(text: str, indent: int = 0) -> str:
    """Prose in lines of eighty columns, the second and later ones indented."""
    whole_words = textwrap.TextWrapper(
        COLUMNS,
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
        break_long_words=False,  # a path is copied whole
    )
    return whole_words.fill(text)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as plain text: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        return "  ".join([cells[0].ljust(widths[0]), *padded[1:]]).rstrip()

    return "\n".join(map(line, rows))
