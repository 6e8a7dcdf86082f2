"""Tasks on the workers of a Dask scheduler. Large arrays travel once, however many tasks show parts of them.

    dask_pool("tcp://10.0.0.5:8786")   a pool for fan_out.py

The training rows of neighbouring folds are slices of the same columns. Pickled task by task, the minutes of five years
in 48 folds are gigabytes through the scheduler; here each column is scattered to the workers once, and a task carries
only where its slice begins (`packed`, `unpacked`).
"""

from __future__ import annotations

import asyncio
import io
import pickle  # nosec B403 - dask hands objects between its own processes
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from himari_rl.errors import ConfigError, not_installed
from himari_rl.training.fan_out import ATTEMPTS, Pool
from himari_rl.training.slim_torch import import_later

R = TypeVar("R")
LARGE = 65_536  # bytes from which an array is scattered
WAIT = "distributed.comm.timeouts.connect"
VARIABLE = "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT"


def dask_pool(address: str) -> Pool:
    """Workers of a Dask scheduler, for example tcp://10.0.0.5:8786."""

    @contextmanager
    def opened() -> Iterator[Executor]:
        try:
            import dask
            from dask.utils import parse_timedelta
            from distributed import Client
        except ModuleNotFoundError as error:
            raise not_installed(f"the Dask scheduler at {address}", error, "cluster") from error
        wait = str(dask.config.get(WAIT))
        seconds = float(parse_timedelta(wait))
        longer = f"{VARIABLE}=120s waits longer"
        try:
            asyncio.run(_greet(address, wait, seconds))
            client = Client(address, timeout=wait, set_as_default=False)  # type: ignore[no-untyped-call]
        except (OSError, asyncio.CancelledError) as error:  # TimeoutError is an OSError
            raise ConfigError(
                f"no Dask scheduler answered at {address} within {wait}{_reason(error)}",
                "tcp://HOST:8786",
                f"start one there (dask scheduler), check the address, or where it is only slow {longer}",
            ) from error
        except (ValueError, ImportError) as error:  # no address; other versions there
            found = f"the Dask scheduler at {address} cannot be used{_reason(error)}"
            raise ConfigError(found, "tcp://HOST:8786 with the versions of this environment") from error
        with client:
            try:
                client.wait_for_workers(1, timeout=seconds)
            except TimeoutError as error:
                found = f"the Dask scheduler at {address} had no worker within {wait}"
                raise ConfigError(found, "at least one", f"start one (dask worker {address}), or {longer}") from error
            with client.get_executor(pure=False, retries=ATTEMPTS) as executor:  # type: ignore[no-untyped-call]
                yield _Scattering(client, executor)

    return opened


async def _greet(address: str, wait: str, seconds: float) -> None:
    """Shakes hands with the scheduler, which the client itself would wait for without end.

    Raises:
        OSError: nobody answers, or not in time. ValueError: no address.
    """
    from distributed.comm.core import connect

    comm = await asyncio.wait_for(connect(address, timeout=wait), seconds)  # type: ignore[no-untyped-call]
    await comm.close()


def _reason(error: BaseException) -> str:
    said = " ".join(str(error).split())
    return f" ({said[:160]})" if said else ""


class _Scattering(Executor):
    """Dask's executor, with the large arrays of its tasks sent beside them and only once."""

    def __init__(self, client: Any, executor: Executor) -> None:
        self._client, self._executor = client, executor
        self._sent: dict[int, tuple[NDArray[Any], Any]] = {}  # by identity, which the array that is kept here holds

    def submit(self, work: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        data, arrays = packed((work, args, kwargs))
        sent = [self._scattered(array) for array in arrays]
        return self._executor.submit(_unpacked_and_run, data, *sent)

    def _scattered(self, array: NDArray[Any]) -> Any:
        if id(array) not in self._sent:
            whole = array.reshape(-1).view(np.uint8)
            self._sent[id(array)] = array, self._client.scatter(whole, broadcast=True, hash=False)
        return self._sent[id(array)][1]


def _unpacked_and_run(data: bytes, *arrays: NDArray[np.uint8]) -> Any:
    import_later()
    work, args, kwargs = unpacked(data, arrays)
    return work(*args, **kwargs)


def packed(value: Any) -> tuple[bytes, list[NDArray[Any]]]:
    """A pickle without its large arrays, and the whole arrays that those are parts of.

    Two slices of one column are two notes of where they begin and one array.
    """
    arrays: list[NDArray[Any]] = []
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, arrays)
    pickler.dump(value)
    return buffer.getvalue(), arrays


def unpacked(data: bytes, arrays: Sequence[NDArray[np.uint8]]) -> Any:
    """What `packed` was given, its large arrays cut out of the bytes of those that came beside it."""
    return _Unpickler(io.BytesIO(data), arrays).load()


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, arrays: list[NDArray[Any]]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._arrays, self._places = arrays, dict[int, int]()

    def persistent_id(self, value: Any) -> Mapping[str, Any] | None:
        if type(value) is not np.ndarray or value.nbytes < LARGE or value.dtype.hasobject:
            return None
        owner = value
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        if not owner.flags.c_contiguous:
            return None
        if id(owner) not in self._places:
            self._places[id(owner)] = len(self._arrays)
            self._arrays.append(owner)
        offset = value.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
        return {
            "array": self._places[id(owner)],
            "shape": value.shape,
            "dtype": value.dtype,
            "offset": offset,
            "strides": value.strides,
        }


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, arrays: Sequence[NDArray[np.uint8]]) -> None:
        super().__init__(file)
        self._arrays = arrays

    def persistent_load(self, note: Any) -> NDArray[Any]:
        whole = self._arrays[note["array"]]
        part: NDArray[Any] = np.ndarray(note["shape"], note["dtype"], whole, note["offset"], strides=note["strides"])
        return part.copy()  # the task's own, as from any pickle: it may write
