"""Ready factories for what people have: a rule, a table of past decisions, an ONNX graph. Agents of Stable-Baselines3:
sb3.py trains one for each fold, sb3_file.py takes one that is trained.

    walk_forward(RuleFactory(my_rule), bars)            himari walk-forward rule:rules.py:my_rule
    walk_forward(TableFactory("past.csv"), bars)        himari walk-forward table:past.csv
    walk_forward(OnnxFactory("policy.onnx"), bars)      himari walk-forward onnx:policy.onnx

A factory is called with a fold's training rows and a seed and returns a policy (policy/protocol.py). These three learn
nothing: they are the same in every fold.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from himari_rl.data.panel import Panel
from himari_rl.errors import ConfigError, DataError, StateError, not_installed
from himari_rl.policy.code import CodeReference, described, loaded
from himari_rl.schema import MAX_MULTIPLIER, Bars, FloatArray, IntArray
from himari_rl.storage import read_bytes

Arrays = Mapping[str, NDArray[Any]]
RuleFunction = Callable[[FloatArray], Any]


# ---- a rule: a function of the state ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class RuleFactory:
    """A function of states (B, F) that returns multipliers (B,) or (B, A), as a policy; clipped to [0, 2]."""

    function: RuleFunction

    @classmethod
    def of(cls, name: str, settings: str = "") -> RuleFactory:
        return cls(loaded(name))

    def reference(self) -> CodeReference:
        function = described(self.function)
        return replace(function, name=f"rule:{function.name}")

    def __call__(self, train: Bars | Panel, seed: int) -> RulePolicy:
        return RulePolicy(self.function)

    def restore(self, arrays: Arrays) -> RulePolicy:
        return RulePolicy(self.function)


class RulePolicy:
    """A rule that answers."""

    def __init__(self, function: RuleFunction) -> None:
        self.function = function

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is kept of it: nothing, it has learned nothing."""
        return {}

    def decide_batch(self, states: NDArray[np.floating], memory: Any = None) -> tuple[FloatArray, Any]:
        said = np.asarray(self.function(np.asarray(states, np.float64)), np.float64)
        if said.size % max(1, len(states)) or not np.isfinite(said).all():
            raise StateError(
                f"the rule answers {said.shape} to {len(states)} states" if np.isfinite(said).all() else "a rule's NaN",
                "one finite number for each state and asset",
                "compute on whole columns of states (B, F)",
            )
        return np.clip(said.reshape(len(states), -1), 0.0, MAX_MULTIPLIER), memory


# ---- a table: past decisions, by time --------------------------------------------------------------------------------


@dataclass(frozen=True)
class TableFactory:
    """A CSV of `time` and `multiplier`: what was decided, when; each decision stands until the next one.

    A bar that fills at F uses the newest row with time < F: the open time of the bar at whose close it was decided, or
    any moment before the fill. A row with just the time of the fill counts for the next one, so that no labelling can
    look ahead. Times are ISO 8601 (UTC where they name no zone) or ms since 1970.
    """

    path: str

    @classmethod
    def of(cls, name: str, settings: str = "") -> TableFactory:
        return cls(name)

    def reference(self) -> CodeReference:
        digest = hashlib.sha256(read_bytes(self.path)).hexdigest()
        return CodeReference(name=f"table:{self.path}", sha256=digest)

    def __call__(self, train: Bars | Panel, seed: int) -> TablePolicy:
        time, multiplier = read_decisions(self.path)
        return TablePolicy(time, multiplier, self.path)

    def restore(self, arrays: Arrays) -> TablePolicy:
        return TablePolicy(arrays["time"], arrays["multiplier"], self.path)


class TablePolicy:
    """Past decisions, which answer only about their own time."""

    def __init__(self, time: IntArray, multiplier: FloatArray, path: str, known: FloatArray | None = None) -> None:
        self.time, self.multiplier, self.path, self.known = time, multiplier, path, known

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"time": self.time, "multiplier": self.multiplier}

    def at(self, fill_time: IntArray) -> TablePolicy:
        """The decisions that stood when each of these fills was made.

        Raises:
            DataError: the table begins after the first fill, or ends more than its longest pause before the last.
        """
        row = np.searchsorted(self.time, fill_time, side="left") - 1
        pause = int(np.diff(self.time).max()) if len(self.time) > 1 else 0
        first, last = (np.datetime64(int(fill_time[i]), "ms") for i in (0, -1))
        if row.min() < 0 or int(fill_time.max()) - int(self.time[-1]) > max(pause, int(np.diff(fill_time).max())):
            begin, end = (np.datetime64(int(self.time[i]), "ms") for i in (0, -1))
            raise DataError(
                f"{self.path} has decisions from {begin} to {end}",
                f"decisions for every fill from {first} to {last}",
                "judge it on the bars of its own time",
            )
        return TablePolicy(self.time, self.multiplier, self.path, self.multiplier[row])

    def decide_batch(self, states: NDArray[np.floating], memory: Any = None) -> tuple[FloatArray, Any]:
        if self.known is None:
            raise StateError(
                f"{self.path} is a table of past decisions and knows nothing of a state",
                "a policy that decides",
                "a table can be judged, and not served",
            )
        step = memory or 0
        return np.full((len(states), 1), self.known[step]), step + 1


def read_decisions(path: str) -> tuple[IntArray, FloatArray]:
    """Times (T,), ms UTC, and multipliers (T,) of a CSV.

    Raises:
        DataError: no such columns, a time or number that is none, a multiplier outside [0, 2], or times out of order.
    """
    rows = list(csv.DictReader(io.StringIO(read_bytes(path).decode("utf-8-sig"))))
    if not rows or not {"time", "multiplier"} <= set(rows[0]):
        raise DataError(
            f"{path} has the columns {', '.join(rows[0]) if rows else 'of an empty file'}", "time and multiplier"
        )
    found = []
    for line, row in enumerate(rows, 2):
        try:
            time, value = milliseconds(str(row["time"])), float(row["multiplier"])
        except ValueError as error:
            raise DataError(f"{path}, line {line}: {error}", "a time and a number") from error
        if not 0.0 <= value <= MAX_MULTIPLIER:  # NaN is in none
            raise DataError(f"{path}, line {line}: multiplier {value:g}", "0 to 2", "a share of the base position")
        found.append((time, value))
    times = np.array([time for time, _ in found], np.int64)
    if (np.diff(times) <= 0).any():
        late = int(np.flatnonzero(np.diff(times) <= 0)[0]) + 3
        raise DataError(f"{path}, line {late}: a time that is not after the one before", "rising times", "sort it")
    return times, np.array([value for _, value in found])


def milliseconds(text: str) -> int:
    """A time as ms UTC: ISO 8601, UTC where it names no zone, or the number itself; ValueError where it is none."""
    if text.strip().lstrip("-").isdecimal():
        number = int(text)
        if number < 10**11:
            raise ValueError(f"time {text} is too small for milliseconds since 1970")
        return number
    said = text.strip().replace("Z", "+00:00")
    from datetime import UTC, datetime

    moment = datetime.fromisoformat(said)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return round(moment.timestamp() * 1000.0)


# ---- an ONNX graph ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OnnxFactory:
    """An ONNX graph with one input (B, F), float32, and multipliers (B, A) first among its outputs; clipped to [0, 2].

    Trained elsewhere: what it was trained on is not known here, so judge it on bars from after that.
    """

    path: str

    @classmethod
    def of(cls, name: str, settings: str = "") -> OnnxFactory:
        return cls(name)

    def reference(self) -> CodeReference:
        return CodeReference(name=f"onnx:{self.path}", sha256=hashlib.sha256(read_bytes(self.path)).hexdigest())

    def __call__(self, train: Bars | Panel, seed: int) -> OnnxPolicy:
        return OnnxPolicy(read_bytes(self.path), self.path)

    def restore(self, arrays: Arrays) -> OnnxPolicy:
        return OnnxPolicy(arrays["graph"].tobytes(), self.path)


class OnnxPolicy:
    """A graph that answers, one thread, on the CPU.

    Raises:
        ConfigError: onnxruntime is not installed, or the graph is none, or has other inputs.
    """

    def __init__(self, graph: bytes, path: str) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise not_installed(f"the ONNX policy {path}", error, "onnx") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own errors share no base class
            raise ConfigError(f"{path} is no ONNX graph: {str(error).splitlines()[0]}", "a graph of states") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 2:
            raise ConfigError(f"{path} has the inputs {[each.shape for each in inputs]}", "one input (B, F)")
        self._graph, self._input = graph, inputs[0].name

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"graph": np.frombuffer(self._graph, np.uint8)}

    def decide_batch(self, states: NDArray[np.floating], memory: Any = None) -> tuple[FloatArray, Any]:
        said = self._session.run(None, {self._input: np.asarray(states, np.float32)})[0]
        return np.clip(np.asarray(said, np.float64).reshape(len(states), -1), 0.0, MAX_MULTIPLIER), memory
