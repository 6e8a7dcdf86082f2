"""The console that commands speak on: stderr, which may be full, closed or a pipe that nobody reads.

What cannot be written is dropped. A training of hours is worth more than its progress line.
"""

from __future__ import annotations

import io
from collections import Counter
from typing import TYPE_CHECKING, TextIO, cast

from himari_rl.evaluation.terminal import say, styled, width

if TYPE_CHECKING:
    from rich.console import Console

    from himari_rl.serving.log_lines import LogLines

WAIT_S = 0.5
"""For lines to be written before the next one, so that they keep their order among others on the same stderr."""


class Unfailing(io.TextIOBase):
    """A text stream that writes to another one and never fails, nor waits for a reader."""

    encoding = "utf-8"  # rich asks it which characters there are

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._text = ""
        self._stuck = False
        self._lines: LogLines | None = None
        if not stream.isatty():
            try:
                descriptor = stream.fileno()
            except (OSError, ValueError):  # a stream of this process alone, as tests have one
                return
            from himari_rl.serving.log_lines import LogLines

            self._lines = LogLines(Counter(), descriptor)

    def isatty(self) -> bool:
        """As the stream's."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """As the stream's."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Takes all of it."""
        self._text += text
        return len(text)

    def flush(self) -> None:
        """Writes what there is, as far as it can be written."""
        text, self._text = self._text, ""
        if self._lines is not None:
            if text:
                self._lines(text)
            if not self._stuck:
                self._stuck = not self._lines.drain(WAIT_S)
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # full, gone or closed
            self._stuck = True


def stderr_console(*, highlight: bool = True) -> Console:
    """A console on stderr that no full disk and no dead pipe can stop."""
    import sys

    from rich.console import Console

    return Console(file=cast(TextIO, Unfailing(sys.stderr)), highlight=highlight)


def print_words(text: str, *, mark: tuple[str, str] | None = None, indent: int = 0, style: str = "") -> None:
    """A line on stdout in the terminal's width: broken between words, never inside one, so that it can be copied.

    Args:
        mark: goes before it: a text and its style.
        indent: of the second and later lines.
    """
    import textwrap

    lead = f"{styled(*mark)}  " if mark else ""
    room = len(mark[0]) + 2 if mark else 0
    whole = textwrap.TextWrapper(
        width() - room,
        subsequent_indent=" " * max(indent - room, 0),
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines = whole.wrap(text) or [""]
    body = ("\n" + " " * room).join(lines)
    say(f"{lead}{styled(body, style)}")
