"""The card's three training commands against fake-gcs-server: all that they make is in the bucket, and only there."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from helpers import PATIENCE_S, himari_here, load_script, run_himari
from helpers.bucket import QUIET
from helpers.cloud import Cloud, cloud_server
from helpers.serving import cloud_run_server, wait_for
from helpers.vertex import DIRS, NO_FOLDER_RENAME, SCRIPTS, SMALL, SYMBOLS, Nursery, finished, put_market, trainer
from himari_rl.experiments import controls
from himari_rl.policy.alias import read_alias
from himari_rl.policy.runtime import load_policy
from himari_rl.serving.messages import EXAMPLE_STATE
from himari_rl.storage import gcs, is_file, read_bytes
from himari_rl.storage.mirror import INDEX
from himari_rl.trials.ledger import Trials

pytestmark = pytest.mark.filterwarnings(*QUIET)
BUCKET = "himari-rl-models"
MODELS = f"gs://{BUCKET}/models"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with cloud_server(BUCKET) as server:
        put_market(BUCKET, tmp_path_factory.mktemp("bars"))
        yield server


@pytest.fixture(scope="module")
def nursery(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery(BUCKET, tmp_path_factory.mktemp("nursery")) as begun:
        yield begun


@pytest.fixture(scope="module")
def trained(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three, as they stand on the card, with folders that cannot be renamed; each in an empty folder."""
    site, cwd = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    (site / "sitecustomize.py").write_text(NO_FOLDER_RENAME)
    src = f"{Path(__file__).parents[2] / 'src'}{os.pathsep}{site}"
    for kind in SCRIPTS:
        more = ("--symbols", *SYMBOLS) if kind == "multi" else ()
        words = ("--model-dir", DIRS[kind], "--num-episodes", "10", *more, *SMALL)
        finished(trainer(kind, *words, bucket=BUCKET, cwd=cwd, PYTHONPATH=src))
    return cwd


@pytest.mark.parametrize("kind", SCRIPTS)
def test_bundle_evaluation_and_verdict_are_in_the_bucket_and_nothing_is_outside(trained: Path, kind: str) -> None:
    place = f"gs://{BUCKET}/{DIRS[kind]}"
    policy = load_policy(f"{place}/bundle")
    assert policy.manifest.symbols == (SYMBOLS if kind == "multi" else SYMBOLS[:1])
    assert json.loads(read_bytes(f"{place}/bundle/evaluation.json"))["model_version"] == policy.manifest.version
    verdict = json.loads(read_bytes(f"{place}/gate.json"))
    assert (verdict["passed"], verdict["reason"]) == (False, "refused by evidence")
    assert policy.manifest.gate is not None
    assert set(json.loads(read_bytes(f"{place}/{INDEX}"))["objects"]) >= {"bundle/manifest.json", "gate.json"}
    assert read_alias(f"{place}/latest.json").bundle == f"{place}/bundle"
    assert any("tfevents" in name for name in gcs.names(f"{place}/tensorboard/"))
    assert list(trained.iterdir()) == []
    assert not Path("gs:").exists()


def test_every_training_and_every_look_is_in_the_shared_ledger(trained: Path) -> None:
    with Trials(f"gs://{BUCKET}/trials") as ledger:
        purposes = sorted(trial.purpose for trial in ledger.history())
        ledger.verify()
    assert purposes == ["evaluate"] * 3 + ["train"] * 3


def test_the_server_starts_from_the_alias_that_promote_moved_and_answers(
    trained: Path, tmp_path: Path, cloud: Cloud
) -> None:
    alias, bundle = f"gs://{BUCKET}/aliases/champion.json", f"{MODELS}/himari-rl/bundle"
    ledger = {"HIMARI_TRIALS": f"gs://{BUCKET}/trials"}
    refused = himari_here("gate", bundle, "--json", cwd=tmp_path, **ledger)
    assert (refused.returncode, json.loads(refused.stdout)["bundle"]) == (1, bundle)
    words = ("promote", alias, bundle)
    assert himari_here(*words, cwd=tmp_path, **ledger).returncode == 1
    moved = run_himari(*words, "--override", "a test of the road", cwd=tmp_path, **ledger)
    assert moved.returncode == 0, moved.stderr
    assert len(gcs.names(f"gs://{BUCKET}/aliases/audit/")) == 2
    assert list(tmp_path.iterdir()) == []
    with cloud_run_server(bundle, MODEL_PATH=alias, STORAGE_EMULATOR_HOST=cloud.url) as (_, client):
        wait_for(lambda: client.get("/ready").status_code == 200)
        answer = client.post("/predict", json={"state": EXAMPLE_STATE})
        assert answer.json()["model_version"] == load_policy(bundle).manifest.version
    back = himari_here("rollback", alias, cwd=tmp_path, **ledger)
    assert (back.returncode, "has no earlier bundle" in back.stderr) == (2, True)


def test_a_bundle_of_a_bucket_is_evaluated_again_by_the_command_and_counted_in_the_bucket(
    trained: Path, tmp_path: Path
) -> None:
    bundle = f"{MODELS}/himari-rl/bundle"
    words = ("--data", f"gs://{BUCKET}/data", "--symbol", "BTC-USD", "--json")
    done = himari_here("evaluate", bundle, *words, cwd=tmp_path, HIMARI_TRIALS="")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["data"]["source"].startswith(f"gs://{BUCKET}/data/")
    assert document["trials"]["ledger"] == 3  # of base, lstm and multi: this look is the first one again
    assert list(tmp_path.iterdir()) == []


def test_the_same_command_again_does_nothing_and_new_bars_begin_beside_the_old(
    trained: Path, tmp_path: Path, nursery: Nursery
) -> None:
    words = ("--model-dir", DIRS["base"], "--num-episodes", "10", *SMALL)
    assert "finished already" in nursery.finished("base", *words, cwd=tmp_path / "a")
    before = {each.name: each.generation for each in gcs.listing(f"{MODELS}/himari-rl/bundle/")}
    put_market(BUCKET, tmp_path, rows=2300, start=1600)  # the second month
    said = nursery.finished("base", *words, cwd=tmp_path / "b")
    assert {each.name: each.generation for each in gcs.listing(f"{MODELS}/himari-rl/bundle/")} == before
    place = said.partition("run ")[2].partition("\n")[0]
    assert place.startswith(f"{MODELS}/himari-rl.")
    old, new = (load_policy(f"{run}/bundle").manifest.training_data for run in (f"{MODELS}/himari-rl", place))
    assert (new.start, new.rows > old.rows, new.end > old.end) == (old.start, True, True)
    assert read_alias(f"{MODELS}/himari-rl/latest.json").bundle == f"{place}/bundle"
    fresh = nursery.finished("base", *words, "--fresh", cwd=tmp_path / "c", CLOUD_ML_JOB_ID="77")
    assert f"run {place}-77\n" in fresh


def test_the_places_of_the_platform_are_honoured(trained: Path, nursery: Nursery, tmp_path: Path) -> None:
    job = f"gs://{BUCKET}/jobs/7"
    aip = {"AIP_MODEL_DIR": f"{job}/model/", "AIP_CHECKPOINT_DIR": f"{job}/checkpoints/"}
    aip["AIP_TENSORBOARD_LOG_DIR"] = f"{job}/logs/"
    nursery.finished("base", "--num-episodes", "10", *SMALL, cwd=tmp_path, **aip)
    names = gcs.names(f"{job}/")
    assert {"model/bundle/manifest.json", "model/gate.json", "checkpoints/model/checkpoint-0.json"} <= set(names)
    assert any(name.startswith("logs/seed-0/events") for name in names)
    assert not any(name.startswith(("model/checkpoints", "model/tensorboard")) for name in names)


def weights(run: str) -> bytes:
    return read_bytes(f"{MODELS}/{run}/bundle/weights.safetensors")


WORDS = ("--num-episodes", "60", "--save-interval", "2", *SMALL)


@pytest.fixture(scope="module")
def whole(nursery: Nursery) -> Callable[[str], tuple[bytes, float]]:
    """The weights of a run of a kind that nobody stopped, and the seconds that it took."""

    @cache
    def run(kind: str) -> tuple[bytes, float]:
        began = time.monotonic()
        assert nursery.run(kind, "--model-dir", f"models/{kind}-whole", *WORDS) == 0, nursery.said
        return weights(f"{kind}-whole"), time.monotonic() - began

    return run


def test_sigterm_leaves_a_checkpoint_from_which_the_same_command_goes_on(
    trained: Path, whole: Callable[[str], tuple[bytes, float]], nursery: Nursery, tmp_path: Path
) -> None:
    pointer = f"{MODELS}/stopped/checkpoints/checkpoint-0.json"
    process = trainer("base", "--model-dir", "models/stopped", *WORDS, bucket=BUCKET, cwd=tmp_path)
    wait_for(lambda: is_file(pointer) or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    assert "goes on from the last checkpoint" in finished(process, 143)
    assert is_file(f"{MODELS}/stopped/checkpoints/{json.loads(read_bytes(pointer))['object']}")
    assert gcs.names(f"{MODELS}/stopped/bundle/") == []
    nursery.finished("base", "--model-dir", "models/stopped", *WORDS, cwd=tmp_path)
    assert weights("stopped") == whole("base")[0]


@pytest.mark.parametrize("kind", SCRIPTS if "HIMARI_KILLS" in os.environ else ["base"])
def test_kill_nine_at_random_changes_not_one_bit(
    nursery: Nursery, whole: Callable[[str], tuple[bytes, float]], kind: str
) -> None:
    """HIMARI_KILLS=20 is the promise, for each kind; a few are enough to find a road that is not resumed.

    A kill may come at any moment: while bars are read, between a checkpoint and its pointer, among the files of the
    bundle, at the gate. A run that comes to its end is compared, and the next kills are of another one.
    """
    kills, rng = int(os.environ.get("HIMARI_KILLS", "2")), random.Random(0)
    killed, resumed, runs = 0, 0, 1
    expected, took = whole(kind)
    while killed < kills:
        run = f"{kind}-killed-{runs}"
        going_on = is_file(f"{MODELS}/{run}/checkpoints/checkpoint-0.json")
        began = time.monotonic()
        code = nursery.run(kind, "--model-dir", f"models/{run}", *WORDS, kill_after_s=rng.uniform(0, took))
        if code is None:
            killed, resumed = killed + 1, resumed + going_on
            continue
        assert code == 0, nursery.said
        assert weights(run) == expected
        runs, took = runs + 1, min(took, time.monotonic() - began)  # the first one may have been slow
    run = f"{kind}-killed-{runs}"
    assert nursery.run(kind, "--model-dir", f"models/{run}", *WORDS) == 0, nursery.said
    assert weights(run) == expected
    assert load_policy(f"{MODELS}/{run}/bundle").manifest.gate is not None
    assert len(gcs.names(f"{MODELS}/{run}/checkpoints/checkpoint-0/")) <= 2
    sys.stdout.write(f"{kind}: {killed} kills, {resumed} after a checkpoint, {runs} runs of {took:.1f} s compared\n")


@pytest.mark.skipif("HIMARI_KILLS" not in os.environ, reason="five trainers for half a minute: make cloud")
def test_two_trainers_at_one_prefix_leave_one_whole_run(cloud: Cloud, tmp_path: Path) -> None:
    """The second is stopped by name as soon as both write, and the same command goes on from what the first left."""
    words = ("--num-episodes", "60", "--save-interval", "2", *SMALL)
    finished(trainer("base", "--model-dir", "models/alone", *words, bucket=BUCKET, cwd=tmp_path))
    both = [trainer("base", "--model-dir", "models/both", *words, bucket=BUCKET, cwd=tmp_path) for _ in range(2)]
    ends = [process.communicate(timeout=2 * PATIENCE_S)[1] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes in ([0, 0], [0, 2], [2, 2]), ends
    for process, said in zip(both, ends, strict=True):
        assert process.returncode == 0 or "Traceback" not in said, said
    finished(trainer("base", "--model-dir", "models/both", *words, bucket=BUCKET, cwd=tmp_path))
    assert weights("both") == weights("alone")
    named = json.loads(read_bytes(f"{MODELS}/both/{INDEX}"))["objects"]
    for name, said in named.items():
        assert hashlib.sha256(read_bytes(f"{MODELS}/both/{name}")).hexdigest() == said["sha256"], name
    assert load_policy(f"{MODELS}/both/bundle").manifest.gate is not None


@pytest.fixture
def judged_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the bootstrap, as in the nursery: nobody reads its intervals."""
    monkeypatch.setattr(controls, "REPLICATIONS", 200)


class Killed(BaseException):
    """As kill -9, for the program that is killed: nothing of it goes on."""


@pytest.mark.usefixtures("judged_quickly")
def test_a_kill_after_each_of_the_last_writes_is_resumed(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle's files, the index, the verdict: a verdict without its bundle once passed for a finished run."""
    trainer_main, put, place = load_script("vertex_training/trainer.py").main, gcs._put, f"{MODELS}/at-each-write"
    monkeypatch.chdir(tmp_path)
    ends: list[str] = []

    def until_the_end(path: str, data: bytes, generation: int) -> int:
        written = put(path, data, generation)
        if ends and path == f"{place}/{ends[0]}":
            raise Killed(ends.pop(0))
        return written

    monkeypatch.setattr(gcs, "_put", until_the_end)
    words = ["--bucket-name", BUCKET, "--model-dir", "models/at-each-write", "--num-episodes", "10", *SMALL]
    for name in ("bundle/weights.safetensors", "bundle/manifest.json", INDEX, "gate.json"):
        ends.append(name)
        with pytest.raises(Killed, match=name):
            trainer_main(words)
    assert trainer_main(words) == 0
    assert load_policy(f"{place}/bundle").manifest.gate is not None
    assert read_alias(f"{place}/latest.json").bundle == f"{place}/bundle"
    named = set(json.loads(read_bytes(f"{place}/{INDEX}"))["objects"])
    assert named >= {"bundle/manifest.json", "bundle/weights.safetensors", "bundle/evaluation.json"}
    gcs.delete(f"{place}/bundle/manifest.json")  # as a run of before, killed between its verdict and its bundle
    index = json.loads(read_bytes(f"{place}/{INDEX}"))
    index["objects"].pop("bundle/manifest.json")
    gcs.exchange(f"{place}/{INDEX}", lambda _: json.dumps(index).encode())
    assert trainer_main(words) == 0
    assert load_policy(f"{place}/bundle").manifest.gate is not None


@pytest.mark.usefixtures("judged_quickly")
def test_a_fresh_run_that_was_killed_goes_on_by_its_own_launch_and_another_launch_begins_anew(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A spot machine is taken away and the platform begins the same command again: --fresh must not lose that work."""
    trainer_main, put, place = load_script("vertex_training/trainer.py").main, gcs._put, f"{MODELS}/fresh"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLOUD_ML_JOB_ID", "1")
    words = ["--bucket-name", BUCKET, "--model-dir", "models/fresh", "--num-episodes", "10", "--fresh", *SMALL]

    def until_the_checkpoint(path: str, data: bytes, generation: int) -> int:
        written = put(path, data, generation)
        if path.startswith(f"{place}/checkpoints/checkpoint-0.json"):
            raise Killed
        return written

    with monkeypatch.context() as patch:
        patch.setattr(gcs, "_put", until_the_checkpoint)
        with pytest.raises(Killed):
            trainer_main(words)
    assert trainer_main(words) == 0
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("run ")] == [f"run {place}"] * 2
    assert trainer_main(words) == 0
    monkeypatch.setenv("CLOUD_ML_JOB_ID", "2")
    assert trainer_main(words) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("run ")]
    assert said[0] == f"run {place}"
    assert said[1].startswith(f"run {place}.")
    assert said[1].endswith("-2")


def test_a_finished_run_says_so_and_that_its_verdict_is_of_other_rules(
    trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--bucket-name", BUCKET, "--model-dir", DIRS["base"], "--num-episodes", "10", *SMALL]
    trainer_main = load_script("vertex_training/trainer.py").main
    assert trainer_main(words) == 0
    assert "of other rules" not in capsys.readouterr().err, "the control"
    assert trainer_main([*words, "--set", "gate.min_sharpe=0.5"]) == 0
    said = capsys.readouterr().err
    assert "finished already" in said
    assert "its verdict is of other rules" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--num-episode", "10"), "unrecognized arguments: --num-episode"),
        (("--num-episodes", "ten"), "invalid int value"),
        (("--set", "cloud.bukcet=x"), "no setting 'cloud.bukcet'; expected cloud.bucket"),
        (("--data", "s3://b/data"), "s3://b/data is neither a local path nor gs://bucket/name"),
        (("--model-dir", "s3://b/m"), "s3://b/m is neither a local path nor gs://bucket/name"),
        (
            ("--model-dir", "/gcs/himari-rl-models/m"),
            "is a mount, which only bars are read from; write it as gs://hima",
        ),
        (("--config", "none.yaml"), "cannot read none.yaml"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_before_anything_is_asked_of_the_bucket(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    try:
        code = load_script("vertex_training/trainer.py").main(["--bucket-name", BUCKET, *words])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert said in capsys.readouterr().err


def test_a_place_that_is_not_named_or_not_there_is_one_line(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer_main = load_script("vertex_training/trainer.py").main
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none.yaml").write_text("cloud:\n  interval: 1h\n")
    with pytest.raises(SystemExit) as stop:
        trainer_main(["--config", "none.yaml"])
    assert (stop.value.code, "nothing says where" in capsys.readouterr().err) == (2, True)
    for words, said in (
        (("--bucket-name", "no-such-bucket"), "gs://no-such-bucket/data"),
        (("--set", "cloud.data=elsewhere"), f"there is nothing at gs://{BUCKET}/elsewhere"),
        (("--symbol", "DOGE-USD"), "DOGE-USD"),
    ):
        assert trainer_main(["--bucket-name", BUCKET, *words]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("trainer.py: ")
        assert said in last
    assert [path.name for path in tmp_path.iterdir()] == ["none.yaml"]


@pytest.mark.parametrize(
    "key", ["bucket", "data", "interval", "symbol", "symbols", "base_dir", "lstm_dir", "multi_dir"]
)
def test_a_renamed_key_of_the_config_is_refused(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(__file__).parents[2] / "config" / "gcp_deployment.yaml"
    text = own.read_text()
    assert f"  {key}: " in text
    (tmp_path / "gcp.yaml").write_text(text.replace(f"  {key}: ", f"  {key}x: "))
    assert load_script("vertex_training/trainer.py").main(["--config", str(tmp_path / "gcp.yaml")]) == 2
    assert f"no setting 'cloud.{key}x'" in capsys.readouterr().err


def test_the_flags_of_the_card_and_what_they_are_when_nobody_types_them() -> None:
    for kind, script in SCRIPTS.items():
        given = load_script(f"vertex_training/{script}").arguments().parse_args([])
        assert (given.num_episodes, given.save_interval) == (1000, 100)
        assert hasattr(given, "symbols" if kind == "multi" else "symbol")


def test_a_dollar_market_stands_in_for_another_and_it_is_said(tmp_path: Path) -> None:
    from himari_rl.cloud.markets import load_market
    from himari_rl.data.synthetic import synthetic_bars
    from himari_rl.data.table import write_bars
    from himari_rl.errors import DataError

    for name in ("BTC-USDT_1h.csv", "BTC-USDT_1d.csv", "ETH-EUR_1h.csv"):
        write_bars(synthetic_bars(600, 0), tmp_path / name)
    (tmp_path / "BTC-USDT_1d.csv").unlink()
    said: list[str] = []
    assert load_market([str(tmp_path)], "base", ["BTC-USD"], "1h", said.append).symbols == ("BTC-USDT",)
    assert said == ["no bars of BTC-USD: BTC-USDT, the only dollar market of BTC here, is trained on instead"]
    with pytest.raises(DataError, match="no data of ETH-USD"):  # the control: euros are no dollars
        load_market([str(tmp_path)], "base", ["ETH-USD"], "1h")
    assert not is_file(tmp_path / "gs:")
