"""gs:// against a bucket of forty lines: the google client unpatched, reads verified, writes compare-and-set."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from helpers import run_python
from helpers.bucket import QUIET, Bucket, bucket_server
from helpers.bundle import make_bundle
from helpers.serving import cloud_run_server, wait_for
from himari_rl.errors import StorageError
from himari_rl.policy import bundle
from himari_rl.policy.alias import point, read_alias, rollback
from himari_rl.policy.runtime import load_policy
from himari_rl.serving.messages import EXAMPLE_STATE
from himari_rl.storage import exchange, gcs, is_file, read_bytes, stamp

pytestmark = pytest.mark.filterwarnings(*QUIET)


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with bucket_server() as server:
        yield server


def test_a_bundle_and_an_alias_in_a_bucket(bucket: Bucket, tmp_path: Path) -> None:
    folders = [make_bundle(tmp_path, name=name, hidden=(4,), weights_seed=i) for i, name in enumerate("ab")]
    for folder in folders:
        bucket.put(folder, f"runs/{folder.name}")
    versions = [load_policy(folder).manifest.version for folder in folders]
    assert [load_policy(f"gs://b/runs/{name}").manifest.version for name in "ab"] == versions
    alias = "gs://b/aliases/champion.json"
    point(alias, "../runs/a")
    before = stamp(alias)
    assert point(alias, "gs://b/runs/b").step == 2
    assert stamp(alias) != before
    assert rollback(alias).bundle == "../runs/a"
    assert read_alias(alias).step == 3
    assert not is_file("gs://b/nothing")
    with pytest.raises(StorageError, match="there is no gs://b/nothing"):
        stamp("gs://b/nothing")


def test_many_writers_lose_nothing_and_a_lost_answer_is_no_lost_race(bucket: Bucket) -> None:
    def add(writer: int) -> None:
        exchange("gs://b/count", lambda before: b"%d by %d" % (int((before or b"0").split()[0]) + 1, writer))

    gcs._client()  # made once, then shared
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(20)))
    assert read_bytes("gs://b/count").startswith(b"20 by ")
    bucket.lose_answer = True
    add(0)  # written, answer lost, retried by the client, 412 for our own write
    assert read_bytes("gs://b/count") == b"21 by 0"


def test_a_corrupted_download_is_refused(bucket: Bucket) -> None:
    bucket.write("x", b"content")
    assert read_bytes("gs://b/x") == b"content"
    bucket.corrupt = True
    with pytest.raises(StorageError, match=r"(?i)checksum"):
        read_bytes("gs://b/x")


@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors"])
def test_a_bundle_s_object_that_is_too_large_is_not_read_to_its_end(
    bucket: Bucket, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the same object is read whole where nobody says how large it may be."""
    bucket.put(make_bundle(tmp_path, hidden=(4,)), "m")
    monkeypatch.setattr(bundle, "_MOST_TEXT", 2**20)
    bucket.write(f"m/{name}", bytes(2**23))
    kept: list[int] = []
    write = gcs._Bounded.write

    def counted(self: gcs._Bounded, data: bytes) -> int:
        kept.append(len(data))
        return write(self, data)

    monkeypatch.setattr(gcs._Bounded, "write", counted)
    with pytest.raises(StorageError, match=rf"{name} has more than .* bytes; expected at most"):
        load_policy("gs://b/m")
    assert sum(kept) < 2**23
    assert len(read_bytes(f"gs://b/m/{name}")) == 2**23


def test_a_bucket_that_cannot_be_reached_at_the_start_is_503_until_it_can(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path, hidden=(4,))
    server = Bucket()
    address = server.server_address
    server.server_close()  # the port is free: nobody listens
    with cloud_run_server(folder, MODEL_PATH="gs://b/m", STORAGE_EMULATOR_HOST=f"http://127.0.0.1:{address[1]}") as (
        process,
        client,
    ):
        assert client.get("/health").status_code == 200  # it listens although the bucket does not answer
        assert client.post("/predict", json={"state": EXAMPLE_STATE}).status_code == 503
        server = Bucket(("127.0.0.1", address[1]))
        server.put(folder, "m")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            wait_for(lambda: client.get("/ready").status_code == 200)
            answer = client.post("/predict", json={"state": EXAMPLE_STATE})
            assert answer.json()["model_version"] == load_policy(folder).manifest.version
            resident = psutil.Process(process.pid).memory_info().rss / 1e6
            assert 40 < resident < 150, f"{resident:.0f} MB with the bucket's client"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


@pytest.mark.parametrize("asks", [False, True])
def test_only_objects_are_asked_for(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, asks: bool) -> None:
    """The control is the client as it comes: a thread asks for the bucket's metadata, behind everybody's back."""
    monkeypatch.setenv(gcs.NO_BUCKET_REQUEST, "false" if asks else "true")
    if not asks:
        monkeypatch.delenv(gcs.NO_BUCKET_REQUEST)
    bucket.write("x", b"content")
    before = set(threading.enumerate())
    assert read_bytes("gs://b/x") == b"content"
    if asks:
        wait_for(lambda: any("/o/" not in path for path in bucket.asked))
        return
    for thread in set(threading.enumerate()) - before:
        thread.join(0.5)  # the bucket's own threads wait for the next request of their connection
    assert all("/o/" in path for path in bucket.asked), bucket.asked


def test_the_reason_of_an_unreachable_bucket_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
    monkeypatch.setattr(gcs, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(gcs, "DEADLINE_S", 1.0)
    gcs._client.cache_clear()
    with pytest.raises(StorageError, match=r"^cannot read gs://b/x: .* check the bucket, the network") as caught:
        read_bytes("gs://b/x")
    assert "\n" not in str(caught.value)
    gcs._client().close()
    gcs._client.cache_clear()


def test_the_google_client_is_imported_only_for_a_bucket(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path, hidden=(4,))
    # google and google.cloud are there from the start where an old namespace .pth of a package is installed
    heavy = ("google.auth", "google.cloud.", "google.api", "requests")
    loaded = f"print([name for name in sys.modules if name.startswith({heavy!r})])"
    start = f"from himari_rl.serving.http.app import create_app\ncreate_app({str(folder)!r}).state.service.load()\n"
    done = run_python("import sys\n" + start + loaded)
    assert done.stdout == "[]\n", done.stdout + done.stderr
