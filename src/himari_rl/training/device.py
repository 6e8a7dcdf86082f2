"""Where the training loop runs."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from himari_rl.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda")


def resolve_device(name: str) -> str:
    """cpu or cuda from auto, cpu or cuda.

    Raises:
        ConfigError: an unknown name, or cuda where torch sees none.
    """
    if name not in DEVICES:
        raise ConfigError(f"device {name!r}", f"one of {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("no CUDA device", "a GPU that torch can see", "use --device cpu, or install torch for CUDA")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


@functools.cache
def keep_freed_memory() -> None:
    """Lets the C library reuse freed blocks of up to 32 MB instead of giving them back to the kernel.

    A minibatch's activations are about a megabyte each. glibc maps and unmaps every one of them, and the page faults
    cost more than the arithmetic: an elementwise pass over 2048 x 128 numbers falls from .25 to .02 ms. No effect
    without glibc.
    """
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(m_mmap_threshold, 32 * 1024 * 1024)
    mallopt(m_trim_threshold, 512 * 1024 * 1024)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch uses one thread for an operation inside, whatever the caller, OMP_NUM_THREADS or the affinity allow.

    A rollout is thousands of operations on a few hundred accounts. Shared between threads they gain little, and each
    waits for the slower thread: on a busy machine two were ten times as slow as one. The number is fixed because a
    product's last bits depend on it: a run that goes on on a machine with more cores must end in the same weights.
    More cores train more seeds, folds and markets at once (fan_out.py).

    >>> with one_thread():
    ...     torch.get_num_threads()
    1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def fast_products() -> Iterator[None]:
    """Lets training's float32 matrix products take the fastest kernel of the machine, and puts the setting back after.

    On a CPU, torch's "medium" sends them to oneDNN instead of MKL, which leaves AVX-512 unused on AMD: 2.2 times the
    rate at 2048 x 128 x 128 and the same float32 digits. Where a machine has bfloat16 matrix units it may multiply in
    those (sums stay float32), as a GPU does in TF32; what is exported is float32 either way.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
