"""Pages in a real browser: docs/screenshots.py speaks to it. A test skips by name where there is no Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from helpers import load_script

SCREENSHOTS = load_script("docs/screenshots.py")
DRAWN = """
[...document.querySelectorAll('.panel')].filter(panel => {
  const canvas = panel.querySelector('canvas');
  if (!canvas) return false;
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let inked = 0;
  for (let k = 3; k < pixels.length; k += 4) inked += pixels[k] > 0;
  return inked > 200;
}).map(panel => panel.id)
"""
"""Panels in which something is drawn."""


@contextmanager
def chromium() -> Iterator[Any]:
    """A tab of a headless Chromium."""
    path = SCREENSHOTS.chromium()
    if path is None:
        pytest.skip("no Chromium on this machine")
    with SCREENSHOTS.browser(path) as tab:
        yield tab


def faults(tab: Any, page: Path | str, width: int, scheme: str = "light") -> dict[str, list[str]]:
    """What is wrong with a page at a width and in a colour scheme; every list is empty where nothing is."""
    tab.said.clear()
    tab.asked.clear()
    tab.open(page, width, scheme)
    folded = "document.querySelectorAll('details').forEach(each => { each.open = true; })"
    cut = tab.run(SCREENSHOTS.CUT_OFF)
    tab.run(folded)
    return {
        "cut off": cut,
        "cut off when all is open": tab.run(SCREENSHOTS.CUT_OFF),
        "errors": list(tab.said),
        "asked of others": [address for address in tab.asked if address != page],
    }
