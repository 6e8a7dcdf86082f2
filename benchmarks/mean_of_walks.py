"""The mean over several walk-forwards of what their policies earn beside a rival, paired bar by bar, with its interval.

    python benchmarks/mean_of_walks.py runs/btc runs/eth runs/sol
    python benchmarks/mean_of_walks.py runs/btc runs/eth runs/sol --less "multiplier 1.0"

Utility a year of the policy less that of `--less`, of each run and of their mean on the decisions that all of them
have. The interval is that of every verdict (evaluation/statistics.py): symbols move together, so the mean of three
intervals would be too narrow, and three runs as one sample far too narrow.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from himari_rl.evaluation.metrics import utility_per_bar
from himari_rl.evaluation.statistics import mean_interval
from himari_rl.schema import RISK_AVERSION, YEAR_MS

RIVALS = ("multiplier 1.0", "15 % volatility", "banded 15 % volatility")


def paired(run: Path, rival: str) -> dict[int, float]:
    """Utility of the policy less the rival's at each fill time of a walk-forward's folder.

    Raises:
        SystemExit: the run has no such rival.
    """
    arrays = load_file(run / "curves.safetensors")
    if f"return/{rival}" not in arrays:
        known = sorted(name.removeprefix("return/") for name in arrays if name.startswith("return/"))
        raise SystemExit(f"{run} has no {rival!r}; it has {', '.join(known)}")
    mine, other = (
        utility_per_bar(arrays[f"growth/{name}"].ravel(), arrays[f"return/{name}"].ravel(), RISK_AVERSION)
        for name in ("policy", rival)
    )
    return dict(zip(arrays["fill_time"].ravel().tolist(), (mine - other).tolist(), strict=True))


def main(argv: list[str] | None = None) -> None:
    """Prints a line for each rival."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--less", action="append", help=f"a rival; {', '.join(RIVALS)} if none is given")
    args = parser.parse_args(argv)
    for rival in args.less or RIVALS:
        each = [paired(run, rival) for run in args.runs]
        times = sorted(set.intersection(*map(set, each)))
        if len(times) < 2:
            raise SystemExit("the runs share no decisions: give walk-forwards of the same months")
        values = np.array([[one[time] for time in times] for one in each])
        year = YEAR_MS / float(np.median(np.diff(times)))
        print(f"less {rival}, {len(times):,} shared decisions, % a year (95 % interval)")
        for name, series in [*zip(map(str, args.runs), values, strict=True), ("mean", values.mean(axis=0))]:
            found = mean_interval(series, np.random.default_rng(0)).scaled(year)
            print(f"  {name:30s} {100 * found.estimate:+6.1f} ({100 * found.lower:+.1f}, {100 * found.upper:+.1f})")


if __name__ == "__main__":
    main()
