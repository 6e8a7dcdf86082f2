"""One look for every page: Jinja2 over the blocks of blocks.py, style, script and chart library inside the file."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files
from typing import Any

from himari_rl.card.blocks import Page
from himari_rl.errors import not_installed

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""Content-Security-Policy: the page asks nobody for anything, and a browser holds it to that."""


@lru_cache(maxsize=1)
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("himari_rl.card"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["kind"] = lambda block: type(block).__name__.lower()
    return made


def _static(name: str) -> str:
    return files("himari_rl.card").joinpath("static", name).read_text(encoding="utf-8")


def render(page: Page) -> str:
    """The page as one HTML file that needs no network.

    Raises:
        ConfigError: Jinja2 is not installed.
    """
    try:
        template = _environment().get_template("page.html.j2")
    except ImportError as error:
        raise not_installed("a page", error, "judge") from error
    drawn = bool(page.panels)
    # "</" ends a script wherever it stands
    data = json.dumps({"axis": page.axis, "panels": list(page.panels)}, allow_nan=False).replace("</", "<\\/")
    text: str = template.render(
        page=page,
        policy=POLICY,
        style=_static("style.css"),
        script=_static("page.js"),
        charts=_static("panels.js") if drawn else "",
        library=_static("uPlot.iife.min.js") if drawn else "",
        licence=_static("uPlot.LICENSE.txt") if drawn else "",
        data=data if drawn else "",
    )
    return text
