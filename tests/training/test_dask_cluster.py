"""A Dask cluster: columns travel once, whatever many tasks show of them; who does not answer is one line."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

from himari_rl.data.synthetic import synthetic_bars
from himari_rl.errors import ConfigError
from himari_rl.experiments.folds import FoldTask
from himari_rl.experiments.recipe import Recipe
from himari_rl.schema import Bars
from himari_rl.training import dask_cluster
from himari_rl.training.dask_cluster import dask_pool, packed, unpacked
from himari_rl.training.fan_out import fan_out


def sent(value):
    """What arrives on a worker."""
    data, arrays = packed(value)
    return unpacked(data, [array.reshape(-1).view(np.uint8) for array in arrays])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_cluster, "LARGE", 8)


@pytest.mark.usefixtures("small")
def test_arrays_arrive_as_they_were_and_belong_to_the_task() -> None:
    column, table = np.arange(10.0), np.arange(12, dtype=np.int32).reshape(3, 4)
    parts = (
        column[2:7],
        column[::-2],
        table[:, 1],
        table.T,
        np.array([True, False] * 8),
        np.array(["a", None], object),
    )
    found = sent(parts)
    assert all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(found, parts, strict=True))
    found[0][0] = 99.0
    assert column[2] == 2.0
    assert sent(np.arange(100.0)[10:20].reshape(2, 5)).tolist() == np.arange(10.0, 20.0).reshape(2, 5).tolist()


def folds_of(bars: Bars) -> list[FoldTask]:
    """Neighbouring folds whose training rows overlap, two seeds each."""
    rows = [slice(0, 20_000), slice(0, 25_000), slice(5_000, 30_000)]
    return [
        FoldTask(part="real", fold=fold, seed=seed, train=bars[where], recipe=Recipe())
        for fold, where in enumerate(rows)
        for seed in range(2)
    ]


def test_the_rows_of_overlapping_folds_are_one_set_of_columns() -> None:
    """Pickled as they are, these six tasks would be 6.7 MB; a column is 240 KB, and there are six."""
    bars = synthetic_bars(30_000, 0)
    packs = [packed([task]) for task in folds_of(bars)]
    assert max(len(data) for data, _ in packs) < 10_000
    assert len({id(array) for _, arrays in packs for array in arrays}) == 6
    for task, (data, arrays) in zip(folds_of(bars), packs, strict=True):
        (found,) = unpacked(data, [array.view(np.uint8) for array in arrays])
        assert found.key == task.key
        assert found.train.fingerprint == task.train.fingerprint
    assert packed([replace(folds_of(bars)[0], train=bars[:100])])[1] == []  # small ones travel in the task


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address=":0"
    ) as made:
        yield made


def rows_of(task: tuple[int, np.ndarray]) -> tuple[int, float]:
    return task[0], float(task[1].sum())


def test_workers_get_each_column_once(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    column, other = np.arange(20_000.0), np.ones(20_000)
    tasks = [(k, (column if k % 2 else other)[k * 1000 : k * 1000 + 9000]) for k in range(6)]
    scattered: list[int] = []
    scatter = Client.scatter
    monkeypatch.setattr(
        Client, "scatter", lambda self, data, **more: scattered.append(data.nbytes) or scatter(self, data, **more)
    )
    found: dict[int, float] = {}
    fan_out(rows_of, tasks, lambda task, result: found.update([result]) or [], dask_pool(cluster.scheduler_address))
    assert found == {k: float(rows.sum()) for k, rows in tasks}
    assert scattered == [other.nbytes, column.nbytes]


def refusal(address: str) -> str:
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "300ms"}),
        pytest.raises(ConfigError) as error,
        dask_pool(address)(),
    ):
        pass
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_handshake_that_never_ends_is_one_line() -> None:
    """As behind a busy scheduler, or another server on that port: it was waited for without end, or cancelled."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        address = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        said = refusal(address)
    assert f"no Dask scheduler answered at {address} within 300ms" in said
    assert "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT=120s" in said


def test_nobody_there_and_no_address_are_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    assert f"no Dask scheduler answered at {address}" in refusal(address)
    assert "nonsense" in refusal("nonsense://127.0.0.1:1")


def test_a_scheduler_without_workers_is_one_line() -> None:
    with LocalCluster(
        n_workers=0, processes=False, protocol="tcp://", host="127.0.0.1", dashboard_address=":0"
    ) as empty:
        said = refusal(empty.scheduler_address)
    assert "had no worker within 300ms" in said
    assert f"dask worker {empty.scheduler_address}" in said
