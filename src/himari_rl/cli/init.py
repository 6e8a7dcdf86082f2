"""himari init: a project folder to begin in, with settings explained, sample bars and the commands in their order.

himari init mine
himari init mine --seed 3 --rows 35000
"""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import click

from himari_rl.cli.signature import Argument, Option, make_command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from himari_rl.config import Setting

ROWS = 17_520  # two years of hours
BARS = "data/BTC-SYNTHETIC_1h.csv.gz"
COLUMNS = 100
SMALL = {"train.seeds": (0, 1), "walk_forward.seeds": (0, 1), "walk_forward.folds": 6}
"""What differs from the defaults, so that a first run takes a minute."""
SHOWN = (
    *("environment.commission_rate", "environment.slippage_bps", "environment.allow_short"),
    *("environment.max_position_pct", "environment.reward", "environment.risk_aversion"),
    *("environment.limits.max_leverage", "environment.limits.daily_loss_stop"),
    *("agent.beliefs", "train.num_episodes", "train.seeds", "train.test_fraction"),
    *("walk_forward.train", "walk_forward.test", "walk_forward.step", "walk_forward.folds", "walk_forward.seeds"),
    *("gate.min_sharpe", "gate.max_drawdown", "serve.log_every", "serve.max_bar_age_s"),
)
"""The settings that somebody changes first; `himari config show` has the others."""
HEAD = """\
# Settings of this project: every command takes `--config run.yaml` and leaves out what it does not use.
# A line that you take away keeps its default; `himari config show walk-forward --config run.yaml` prints every
# setting, its value, where it was set and what it means. A key that nobody knows is refused.
"""
GUIDE = """\
# {name}

`{bars}` is a SYNTHETIC market (seed {seed}, {rows:,} hours): it shows the road and says nothing of a real market.
Your own bars are a file with timestamp, open, high, low, close, volume; put its name where this one stands.

    himari doctor train judge serve                                  what is missing here, and the cure
    himari data audit {bars}
    himari train base --config run.yaml --data {bars} --out runs/first
    himari evaluate runs/first/bundle --config run.yaml --data {bars} --html runs/first/report.html
    himari walk-forward base --config run.yaml --data {bars} --out runs/walk
    himari gate runs/walk/bundle                                     may it size money?
    himari report runs/walk                                          runs/walk/report.html
    himari serve runs/first/bundle --config run.yaml

Real bars: himari data fetch BTC-USD --since 2020-01-01
"""
IGNORED = "runs/\ndata/\naliases/\n.venv/\n"


def register(app: click.Group) -> None:
    """Adds `himari init`."""
    app.add_command(make_command(init))


def init(
    folder: Annotated[str, Argument(help="A new folder, or one in which none of these files is yet.")],
    rows: Annotated[int, Option(min=2000, help="Hours of sample bars.")] = ROWS,
    seed: Annotated[int, Option(min=0, help="Of the synthetic market.")] = 0,
    as_json: Annotated[bool, Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Makes a project folder: run.yaml with every line explained, synthetic sample bars, README.md, .gitignore.

    Example: himari init mine
    """
    from himari_rl.data.synthetic import synthetic_bars
    from himari_rl.data.table import write_bars
    from himari_rl.errors import ConfigError
    from himari_rl.storage import local_path, write_atomic

    place = local_path(folder)
    texts = {
        "run.yaml": run_yaml(),
        "README.md": GUIDE.format(name=place.name, bars=BARS, seed=seed, rows=rows),
        ".gitignore": IGNORED,
    }
    there = [name for name in (*texts, BARS) if (place / name).exists()]
    if there:
        raise ConfigError(f"{place} holds {there[0]}", "a folder without it", "choose another folder, or move it away")
    for name, text in texts.items():
        write_atomic(place / name, text.encode())
    write_bars(synthetic_bars(rows, seed), place / BARS)
    if as_json:
        click.echo(json.dumps({"folder": str(place), "files": [*texts, BARS], "rows": rows, "seed": seed}))
        return
    click.echo(f"{place}: {', '.join(texts)} and {BARS}, a SYNTHETIC market of {rows:,} hours (seed {seed})")
    click.echo(f"next: cd {place} && himari train base --config run.yaml --data {BARS} --out runs/first")


def run_yaml() -> str:
    """The commented settings file, made of the settings' own words."""
    from himari_rl.cli.settings import section_type
    from himari_rl.config import settings_of

    sections = dict.fromkeys(key.partition(".")[0] for key in SHOWN)
    known = {each.key: each for section in sections for each in settings_of(section_type(section), section)}
    lines = [HEAD]
    for section in sections:
        lines.append(f"{section}:")
        deeper = ""
        for key in (key for key in SHOWN if key.startswith(f"{section}.")):
            *path, name = key.split(".")[1:]
            inner = ".".join(path)
            if inner != deeper and inner:
                lines.append(f"  {inner}:")
            deeper = inner
            lines += _setting(known, key, name, "  " * (1 + len(path)))
    return "\n".join(lines) + "\n"


def _setting(known: Mapping[str, Setting], key: str, name: str, indent: str) -> list[str]:
    """A setting's meaning as a comment, and the setting below it."""
    setting = known[key]
    value = SMALL.get(key, setting.value)
    said = setting.help + (f" Default: {_yaml(setting.value)}." if value != setting.value else "")
    comment = textwrap.wrap(said, COLUMNS, break_long_words=False, break_on_hyphens=False)
    return [*(f"{indent}# {line}" for line in comment), f"{indent}{name}: {_yaml(value)}"]


def _yaml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)
