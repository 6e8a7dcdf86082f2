"""Large jobs to their end: five years of minutes, and fifty assets. Seconds, CPU seconds and peak memory of each.

    python benchmarks/scale.py                              both
    python benchmarks/scale.py --only minutes --rows 2600000 --folds 6
    python benchmarks/scale.py --only assets --assets 50 --hours 17520

Minutes: `train base`, `evaluate` of its bundle, and a `walk-forward` of the newest folds. Assets: `train multi` and
`evaluate`. The bars are synthetic, every command is a process of its own with one thread, and one that needs more than
--limit-gb ends the run with exit code 1. A line as each command ends; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from command_speed import Cost, himari
from engine_speed import processor

TREE = Path(__file__).resolve().parents[1]


def minutes(folder: Path, rows: int, folds: int, seeds: int) -> dict[str, list[str]]:
    """A file of minute bars, and the commands that are measured on it."""
    from himari_rl.data.synthetic import synthetic_bars
    from himari_rl.data.table import write_bars
    from himari_rl.schema import MINUTE_MS

    data = folder / "BTC-SYNTHETIC_1m.parquet"
    write_bars(synthetic_bars(rows, 0, interval_ms=MINUTE_MS, outages=20), data)
    run, many, walk = str(folder / "minutes"), ["--data", str(data)], str(folder / "walk")
    return {
        "minutes train": ["train", "base", *many, "--seeds", "1", "--out", run],
        "minutes evaluate": ["evaluate", f"{run}/bundle", *many],
        "minutes walk-forward": [
            *("walk-forward", "base", *many, "--folds", str(folds), "--seeds", str(seeds)),
            *("--jobs", "1", "--out", walk),
        ],
    }


def assets(folder: Path, count: int, hours: int) -> dict[str, list[str]]:
    """A folder of hourly bars of many symbols, and the commands that are measured on it."""
    from himari_rl.data.synthetic_panel import synthetic_panel
    from himari_rl.data.table import write_bars

    symbols = [f"S{number:02d}-USD" for number in range(count)]
    data = folder / "panel"
    data.mkdir()
    for bars in synthetic_panel(symbols, hours, 0).each:
        write_bars(bars, data / f"{bars.symbol}_1h.parquet")
    run = str(folder / "assets")
    return {
        "assets train": ["train", "multi", "--data", str(data), "--symbols", *symbols, "--seeds", "1", "--out", run],
        "assets evaluate": ["evaluate", f"{run}/bundle", "--data", str(data)],
    }


def main(argv: list[str] | None = None) -> int:
    """Prints the table; 1 where a command needed too much memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("minutes", "assets"))
    parser.add_argument("--rows", type=int, default=2_600_000, help="minute bars")
    parser.add_argument("--folds", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1, help="of each fold")
    parser.add_argument("--assets", type=int, default=50)
    parser.add_argument("--hours", type=int, default=17_520, help="hourly bars of each asset")
    parser.add_argument("--limit-gb", type=float, default=6.0)
    args = parser.parse_args(argv)
    found: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory() as root:
        commands: dict[str, list[str]] = {}
        if args.only != "assets":
            commands |= minutes(Path(root), args.rows, args.folds, args.seeds)
        if args.only != "minutes":
            commands |= assets(Path(root), args.assets, args.hours)
        print(f"{processor()}; one thread; {args.rows:,} minutes, {args.assets} assets of {args.hours:,} hours")
        for name, words in commands.items():
            cost = found[name] = himari(TREE, words, Path(root))
            said = f"{cost.seconds:8.1f} s {cost.cpu_seconds:8.1f} CPU s {cost.peak_mb / 1024:6.2f} GB"
            print(f"{name:22s} {said}", flush=True)
    above = [name for name, cost in found.items() if cost.peak_mb > 1024 * args.limit_gb]
    for name in above:
        print(f"{name} needed more than {args.limit_gb:g} GB", file=sys.stderr)
    print(json.dumps({"processor": processor(), "costs": {name: cost._asdict() for name, cost in found.items()}}))
    return 1 if above else 0


if __name__ == "__main__":
    raise SystemExit(main())
