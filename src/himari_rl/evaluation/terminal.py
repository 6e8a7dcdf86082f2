"""The shapes of what is printed: a table of figures, a check with its sentence, plain text; all fit eighty columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

INDENT = 8
COLUMNS = 80


def figures(title: str, first: str, numbers: Iterable[str]) -> Table:
    """An empty table: a column of names, and columns of numbers to the right."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def print_check(console: Console, passed: bool, head: str, why: str = "") -> None:
    """`pass` or `REFUSE` before the check's own line, and why below it, indented."""
    mark = "[green]pass  [/]" if passed else "[red]REFUSE[/]"
    console.print(f"{mark}  {escape(head)}", soft_wrap=True)
    if why:
        console.print(indented(why, console.width), style="dim", markup=False, soft_wrap=True)


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
