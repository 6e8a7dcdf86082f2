"""The trainers of vertex_training/: the card's flags, read into the one config system, and the job they start.

Bars, models and trial ledger are objects of a bucket, read and written by API: nothing is mounted. A relative
--model-dir is a prefix in the bucket. Exit codes: 0 done, whatever the verdict; 1 the policy degenerated; 2 bad usage
or input, which a restart does not cure; 143 stopped by SIGTERM with a checkpoint, and the same command goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from himari_rl.cli.settings import resolved
from himari_rl.config import Given, Resolved
from himari_rl.errors import HimariError
from himari_rl.storage import is_remote, join, place_to_write
from himari_rl.training.config import TrainConfig
from himari_rl.training.slim_torch import import_later

PLACE = Path("config") / "gcp_deployment.yaml"
_FLAGS = {
    "num_episodes": "train.num_episodes",
    "save_interval": "train.save_interval",
    "bucket_name": "cloud.bucket",
    "symbol": "cloud.symbol",
    "symbols": "cloud.symbols",
    "max_cost": "budget.max_cost",
}


def arguments(kind: str, script: str) -> argparse.ArgumentParser:
    """The flags that launchers and container definitions use."""
    usual = TrainConfig()
    parser = argparse.ArgumentParser(
        prog=script, description=f"Trains the {kind} policy, as a Vertex AI job runs it.", allow_abbrev=False
    )
    add = parser.add_argument
    add("--bucket-name", help="bucket of bars, model and trial ledger [default: cloud.bucket of the config]")
    add("--data", nargs="+", help="bars, local or gs:// [default: gs://BUCKET/data]")
    add(
        "--model-dir",
        help="the run's folder; a relative one is a prefix in the bucket [default: AIP_MODEL_DIR, or "
        "the card's folder]",
    )
    add("--num-episodes", type=int, default=usual.num_episodes, help="of 500 bars, each seed")
    add("--save-interval", type=int, default=usual.save_interval, help="episodes between two checkpoints")
    if kind == "multi":
        add("--symbols", nargs="+", help="2 to 100, in the order of the policy's answer")
    else:
        add("--symbol", help="which symbol of the bars")
    add("--features", metavar="A,B", help="columns of the data that the policy sees too, in this order")
    add("--seeds", type=int, default=len(usual.seeds), help="how many; the bundle is their ensemble")
    add("--seed", type=int, default=usual.seeds[0], help="first of the seeds")
    add("--max-cost", type=float, help="US dollars: stops there with a checkpoint, at budget.usd_per_hour")
    add("--config", help=f"YAML of settings [default: {PLACE}]")
    add("--set", action="append", dest="assignments", metavar="KEY=VALUE", help="any other setting, again and again")
    add("--fresh", action="store_true", help="begin anew beside what is there")
    return parser


def main(kind: str, parser: argparse.ArgumentParser, argv: Sequence[str] | None, root: Path) -> int:
    """Trains; what goes wrong is one line on stderr.

    Args:
        root: where the repository's own config lies, for a job that is started in another folder.
    """
    if argv is None:  # the process is ours
        import_later()
    try:
        return _run(kind, parser, *checked(kind, parser, argv, root))
    except HimariError as error:
        from himari_rl.storage.mirror import shown

        sys.stderr.write(f"{parser.prog}: {' '.join(shown(str(error)).split())}\n")
        return error.exit_code


def checked(
    kind: str, parser: argparse.ArgumentParser, argv: Sequence[str] | None, root: Path
) -> tuple[Namespace, set[str], Resolved]:
    """What was typed, which of the flags were, and every setting; a launcher asks this before anything is paid for.

    Raises:
        HimariError: a setting that does not exist, or a value that no component takes.
        SystemExit: a flag that does not exist, with its line on stderr.
    """
    given = parser.parse_args(argv)
    typed = {name for name, value in vars(_typed(parser, argv)).items() if value is not None}
    settings = resolved(
        "cloud-train", kind, _config(given.config, root), given.assignments or (), _options(given, typed)
    )
    for section in settings.sections:
        settings[section]  # a value that no component takes is refused before anything is read
    return given, typed, settings


def _run(kind: str, parser: argparse.ArgumentParser, given: Namespace, typed: set[str], settings: Resolved) -> int:
    from himari_rl.cloud.costs import CostLedger
    from himari_rl.cloud.markets import load_market
    from himari_rl.cloud.meter import metered
    from himari_rl.cloud.training_run import Places, train_in_cloud
    from himari_rl.features.own import with_named
    from himari_rl.training.job import Job

    places = _places(parser, kind, given, settings, os.environ)
    cloud = settings["cloud"]
    data = given.data or [f"gs://{cloud.bucket}/{cloud.data}"]
    job = Job(agent=settings["agent"], environment=settings["environment"], **vars(settings["train"]))
    symbols = cloud.symbols if kind == "multi" else (cloud.symbol,)
    if given.data and kind != "multi" and "symbol" not in typed:
        symbols = _only(data) or symbols
    bars = with_named(load_market(data, kind, symbols, None if given.data else cloud.interval, tell), given.features)
    costs = CostLedger(places.pop("costs"))
    with metered(settings["budget"], kind, places["model_dir"], ledger=costs, tell=tell):
        return train_in_cloud(
            job,
            bars,
            Places(**places),
            judged=settings["evaluate"],
            rules=settings["gate"],
            accept=settings["data"].accept,
            fresh=given.fresh,
            tell=tell,
        )


def tell(line: str) -> None:
    """A line of the job's log."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _places(
    parser: argparse.ArgumentParser, kind: str, given: Namespace, settings: Resolved, environment: Mapping[str, str]
) -> dict[str, str]:
    """Where the job reads and writes: a flag goes before what the platform names (AIP_*), and that before the config.

    Data that is named without a bucket is somebody's own: then the config's bucket is not meant.
    """
    cloud = settings["cloud"]
    bucket = f"gs://{cloud.bucket}" if cloud.bucket and (given.bucket_name or not given.data) else ""
    model_dir = given.model_dir or environment.get("AIP_MODEL_DIR") or (bucket and cloud.model_dir(kind))
    if not model_dir or (not bucket and not given.data):
        parser.error("nothing says where the bars or the model are; give --bucket-name, or --data and --model-dir")
    if bucket and not is_remote(model_dir) and not Path(model_dir).is_absolute():
        model_dir = join(bucket, model_dir)
    if not is_remote(model_dir):
        place_to_write(model_dir)  # not a mount
    return {
        "model_dir": model_dir.rstrip("/"),
        "checkpoints": environment.get("AIP_CHECKPOINT_DIR", "") if is_remote(model_dir) else "",
        "tensorboard": environment.get("AIP_TENSORBOARD_LOG_DIR", ""),
        "trials": f"{bucket}/{cloud.trials}" if is_remote(model_dir) and bucket else "",
        "costs": f"{bucket}/{cloud.costs}" if is_remote(model_dir) and bucket else environment.get("HIMARI_COSTS", ""),
    }


def _config(typed: str | None, root: Path) -> str | None:
    """The config: what was typed, else the one here, else the repository's own."""
    usual = (path for path in (PLACE, root / PLACE) if path.is_file())
    return typed or next((str(path) for path in usual), None)


def _only(data: Sequence[str]) -> tuple[str, ...]:
    """The one symbol of files that were named one by one."""
    from himari_rl.data.sources import find
    from himari_rl.data.table import name_parts

    names = {name_parts(file)[0] for file in find(data)}
    return tuple(names) if len(names) == 1 else ()


def _options(given: Namespace, typed: set[str]) -> list[Given]:
    found = []
    for name in _FLAGS:
        if name in typed:
            value: Any = getattr(given, name)
            raw = tuple(value) if isinstance(value, list) else value
            found.append(Given(key=_FLAGS[name], raw=raw, origin=f"--{name.replace('_', '-')}", typed=True))
    if {"seed", "seeds"} & typed:
        seeds = tuple(range(given.seed, given.seed + given.seeds))
        found.append(Given(key="train.seeds", raw=seeds, origin="--seeds", typed=True))
    return found


def _typed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> Namespace:
    """What was typed alone: None for the rest."""
    blank = Namespace(**{action.dest: None for action in parser._actions if action.dest != "help"})
    return parser.parse_args(argv, blank)
