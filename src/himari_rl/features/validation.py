"""The border: is this list of numbers a state? Answered in microseconds when it is, with field and cure when not.

The happy path is one pass of comparisons over plain Python floats (for sixteen numbers faster than any array call) and
set look-ups for the one-hots. Only a state that fails it is looked at again, slowly, to say what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from himari_rl.errors import StateError
from himari_rl.features.contract import ACTION, FEATURES, POSITION_SIDE, TIER, WIDTH, state_dim, state_features
from himari_rl.schema import FloatArray

TOLERANCE = 1e-6  # rounding of float32 and of decimal text
SIDES = frozenset((-1.0, 0.0, 1.0))
MAX_ASSETS = 64


class _OneHot(NamedTuple):
    columns: slice
    field: str
    names: str
    hot: frozenset[tuple[float, ...]]


class Layout(NamedTuple):
    """Where what stands in a state, and in which range; one for each set of symbols, from `layout_of`."""

    names: tuple[str, ...]
    bounds: tuple[tuple[float, float], ...]
    one_hots: tuple[_OneHot, ...]
    sides: tuple[int, ...]
    lower: FloatArray
    upper: FloatArray


@lru_cache(maxsize=64)
def layout_of(dim: int, symbols: tuple[str, ...], own: tuple[str, ...] = ()) -> Layout:
    """The layout of a state of `dim` numbers.

    Raises:
        StateError: the symbols make a state of another length.
    """
    if not symbols:
        count = next((assets for assets in range(1, MAX_ASSETS) if state_dim(assets) == dim), None)
        if count is None:
            raise StateError(
                f"no number of assets has a state of {dim} numbers", "16 for one asset, 34 for two, 52 for three"
            )
        symbols = tuple(f"asset_{index + 1}" for index in range(count))
    features = state_features(symbols, own)
    if len(features) != dim:
        raise StateError(f"{len(symbols)} symbols make a state of {len(features)} numbers", f"a state_dim of {dim}")
    one_hots = []
    for asset, symbol in enumerate(symbols):
        prefix = f"{symbol}." if len(symbols) > 1 else ""
        for field, columns in (("action", ACTION), ("tier", TIER)):
            width = columns.stop - columns.start
            hot = frozenset(tuple(1.0 if i == j else 0.0 for i in range(width)) for j in range(width))
            here = slice(columns.start + asset * WIDTH, columns.stop + asset * WIDTH)
            one_hots.append(_OneHot(here, f"{prefix}{field} one-hot", ", ".join(FEATURES[columns]), hot))
    bounds = tuple((feature.lower - TOLERANCE, feature.upper + TOLERANCE) for feature in features)
    return Layout(
        names=tuple(feature.name for feature in features),
        bounds=bounds,
        one_hots=tuple(one_hots),
        sides=tuple(POSITION_SIDE + asset * WIDTH for asset in range(len(symbols))),
        lower=np.array([low for low, _ in bounds]),
        upper=np.array([high for _, high in bounds]),
    )


def validate_state(
    state: Sequence[float] | np.ndarray[Any, Any],
    state_dim: int = WIDTH,
    symbols: Sequence[str] = (),
    own: tuple[str, ...] = (),
) -> None:
    """Refuses what cannot be a state of the contract (features/contract.py); returns nothing when it can.

    Args:
        state: (F,) list or array of one state, or (B, F) array of several.
        state_dim: how many numbers the bundle expects.
        symbols: the assets' names for the message; default asset_1, asset_2, ...
        own: the policy's own features, which stand after everything else.

    Raises:
        StateError: a wrong length, something that is not a finite number, a number out of its range, a one-hot that is
            not one 1 and else 0, a position side other than -1, 0, 1. Names the field, the value and the cure.
    """
    layout = layout_of(state_dim, tuple(symbols), own)
    if isinstance(state, np.ndarray):
        if state.ndim == 2:
            _validate_batch(state, state_dim, layout)
            return
        state = state.tolist()
    if not _is_state(state, state_dim, layout):
        _explain(state, state_dim, layout, "")


def _is_state(state: Any, dim: int, layout: Layout) -> bool:
    if type(state) is not list or len(state) != dim:
        return False
    try:
        for value, (low, high) in zip(state, layout.bounds, strict=True):
            if not low <= value <= high:  # False for NaN
                return False
        return categories_hold(tuple(state), layout)
    except TypeError:  # text, None or a list among the numbers
        return False


def categories_hold(state: tuple[float, ...], layout: Layout) -> bool:
    """Whether every one-hot has one 1 and every side is -1, 0 or 1, in a state whose numbers are in range."""
    for columns, _, _, hot in layout.one_hots:
        if state[columns] not in hot:
            return False
    for side in layout.sides:  # noqa: SIM110  a generator costs more than what it goes over
        if state[side] not in SIDES:
            return False
    return True


def _validate_batch(states: np.ndarray[Any, Any], dim: int, layout: Layout) -> None:
    if states.shape[1] == dim and states.dtype.kind in "fiu":
        good = ((states >= layout.lower) & (states <= layout.upper)).all()
        for one_hot in layout.one_hots:
            block = states[:, one_hot.columns]
            good = good and ((block == 0.0) | (block == 1.0)).all() and (block.sum(axis=1) == 1.0).all()
        for side in layout.sides:
            good = good and (states[:, side] == np.rint(states[:, side])).all()
        if good:
            return
    for row, state in enumerate(states.tolist()):
        _explain(state, dim, layout, f"row {row}: ")


def _explain(state: Any, dim: int, layout: Layout, where: str) -> None:
    """Raises for the first thing wrong; returns when what the fast path disliked was only rounding."""
    if not isinstance(state, Sequence) or isinstance(state, str | bytes):
        raise StateError(
            f"{where}the state is {_shown(state)}", f"a list of {dim} numbers", "send them in the contract's order"
        )
    if len(state) and isinstance(state[0], list | tuple | np.ndarray):
        raise StateError(
            f"{where}the state has one list too many: it holds {len(state)} list{'s' * (len(state) > 1)}",
            f"a list of {dim} numbers",
            "send [...] and not [[...]]; several states go to POST /v1/batch",
        )
    _explain_length(state, dim, layout, where)
    state = [value.item() if isinstance(value, np.generic) else value for value in state]
    for name, value, feature_bounds in zip(layout.names, state, layout.bounds, strict=True):
        low, high = (round(bound, 3) + 0.0 for bound in feature_bounds)
        if not isinstance(value, int | float):
            raise StateError(f"{where}{name} is {_shown(value)}", "a number", f"send a number in [{low:g}, {high:g}]")
        if value != value or abs(value) == math.inf:  # isfinite overflows on a 400-digit integer
            raise StateError(
                f"{where}{name} is {value}",
                f"a finite number in [{low:g}, {high:g}]",
                "a missing value has no default: send the state once every number is known",
            )
        if not feature_bounds[0] <= value <= feature_bounds[1]:
            raise StateError(
                f"{where}{name} is {_shown(value)}",
                f"a number in [{low:g}, {high:g}]",
                "scale and clip it as docs/features.md says",
            )
    for one_hot in layout.one_hots:
        block = tuple(state[one_hot.columns])
        if tuple(round(value) for value in block) not in one_hot.hot or any(
            abs(value - round(value)) > TOLERANCE for value in block
        ):
            raise StateError(
                f"{where}{one_hot.field} is [{', '.join(f'{value:g}' for value in block)}]",
                f"exactly one 1 and else 0 among {one_hot.names}",
                "set the one that holds to 1 and the others to 0",
            )
    for side in layout.sides:
        if abs(state[side] - round(state[side])) > TOLERANCE:
            raise StateError(
                f"{where}{layout.names[side]} is {state[side]:g}",
                "-1, 0 or 1",
                "send the sign of the position, not its size",
            )


def _explain_length(state: Sequence[Any], dim: int, layout: Layout, where: str) -> None:
    short = dim - len(state)
    if short > 0:
        missing = layout.names[len(state) :]
        more = f" and {short - 3} more" if short > 3 else ""
        difference = f"missing: {', '.join(missing[:3])}{more}"
    elif short < 0:
        difference = f"{-short} too many after {layout.names[-1]}"
    else:
        return
    raise StateError(
        f"{where}bundle expects {dim} features, the request has {len(state)} ({difference})",
        cure=f"send all {dim} in the contract's order, or ask a bundle that was exported for {len(state)}",
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
