"""Draws docs/img/house.svg: the rooms in run order, what flows between them, and what ships without torch.

`python docs/house_picture.py --check` exits 1 where the picture is not what this file draws, or a room is not there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "img" / "house.svg"
WIDE, HIGH, GAP, TOP = 172, 62, 30, 44
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1b1f24 } .name { font-weight: 600; font-size: 15px }
  .lead { fill: #57606a } rect { fill: #ffffff; stroke: #57606a; rx: 8 } .ships { stroke: #0a7f73; stroke-width: 2 }
  .floor { fill: #f6f8fa; stroke: none } path { stroke: #57606a; fill: none; marker-end: url(#tip) }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .lead { fill: #9da7b1 } rect { fill: #161b22; stroke: #9da7b1 }
    .ships { stroke: #3fc9b7 } .floor { fill: #0d1117 } path { stroke: #9da7b1 }
  }
"""


class Box(NamedTuple):
    """A room, or two that stand together."""

    rooms: str
    line: str
    ships: bool = False


FLOORS = {
    "learn": (
        Box("data", "bars, audited", True),
        Box("features", "sixteen numbers", True),
        Box("envs agents", "ledger, policy"),
        Box("training", "PPO, beliefs"),
        Box("policy", "bundle, ledger", True),
    ),
    "judge": (
        Box("certification", "known optima"),
        Box("experiments", "walk-forward"),
        Box("evaluation", "verdict, controls", True),
        Box("release", "gate, promote", True),
        Box("card", "one page", True),
    ),
    "use": (
        Box("serving", "HTTP, alias", True),
        Box("client", "or exactly 1.0", True),
        Box("runner", "signal to size", True),
        Box("journal", "every decision", True),
        Box("monitoring", "drift, alarms", True),
    ),
}


def picture() -> str:
    """The whole SVG."""
    width = 5 * WIDE + 6 * GAP
    floor = HIGH + TOP + 22
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {3 * floor + 40}" role="img">']
    parts.append("<title>The rooms of himari_rl, in the order in which they run</title>")
    parts.append(f"<style>{STYLE}</style><defs><marker id='tip' markerWidth='8' markerHeight='8' refX='7' refY='4'")
    parts.append("orient='auto'><path d='M1 1 L7 4 L1 7' style='marker-end: none'/></marker></defs>")
    for level, (title, boxes) in enumerate(FLOORS.items()):
        y = level * floor + 8
        parts.append(f'<rect class="floor" x="8" y="{y}" width="{width - 16}" height="{floor - 10}"/>')
        parts.append(f'<text class="lead" x="{GAP}" y="{y + 24}">{title}</text>')
        for place, box in enumerate(boxes):
            x, top = GAP + place * (WIDE + GAP), y + TOP - 8
            kind = ' class="ships"' if box.ships else ""
            parts.append(f'<rect{kind} x="{x}" y="{top}" width="{WIDE}" height="{HIGH}"/>')
            parts.append(f'<text class="name" x="{x + 14}" y="{top + 26}">{" · ".join(box.rooms.split())}</text>')
            parts.append(f'<text class="lead" x="{x + 14}" y="{top + 46}">{box.line}</text>')
            if place:
                middle = top + HIGH // 2
                parts.append(f'<path d="M{x - GAP + 4} {middle} H{x - 4}"/>')
    legend = "green: ships, and runs on numpy without torch"
    parts.append(f'<text class="lead" x="{GAP}" y="{3 * floor + 26}">{legend}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def missing() -> list[str]:
    """Rooms that are drawn and not there."""
    drawn = [room for boxes in FLOORS.values() for box in boxes for room in box.rooms.split()]
    return [room for room in drawn if not (ROOT / "src" / "himari_rl" / room / "__init__.py").exists()]


def main(argv: list[str]) -> int:
    """Writes the picture, or with --check compares it."""
    if lost := missing():
        sys.stderr.write(f"docs/house_picture.py draws rooms that are not there: {', '.join(lost)}\n")
        return 1
    if "--check" in argv:
        return 0 if PICTURE.exists() and PICTURE.read_text() == picture() else 1
    PICTURE.write_text(picture())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
