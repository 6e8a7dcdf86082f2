"""The runtime: a bundle that answers. Evaluation and serving run this and nothing else.

    policy = load_policy("runs/base/bundle")
    decision = policy.decide(state)            # ~10 microseconds: multipliers, confidence, memory
    multipliers, memory = policy.decide_batch(states)
    steps = policy.steps(states, memories)     # of many clients at once, each as `decide` would answer

numpy float32, preallocated. A Policy reuses its buffers, so it belongs to one thread; load one per thread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from himari_rl.errors import BundleError, StateError
from himari_rl.features.contract import ACCOUNT_COLUMNS, WIDTH, schema_hash, state_dim
from himari_rl.policy.bands import Bands, bands, followed
from himari_rl.policy.believer import LOOKBACK, Believer
from himari_rl.policy.bundle import read_bundle
from himari_rl.policy.confidence import Confidence
from himari_rl.policy.manifest import Manifest
from himari_rl.policy.network import F32, HEADS, InputNormaliser, Member, with_one
from himari_rl.policy.page import policy_page
from himari_rl.schema import MAX_MULTIPLIER, BoolArray, FloatArray


class Decision(NamedTuple):
    """One answer."""

    multipliers: FloatArray  # (A,) in [0, 2], in the order of the manifest's symbols
    confidence: float  # [0, 1]; policy/confidence.py says what it means
    memory: F32  # (S,) to pass with the next state; size 0 where the policy has none
    out_of_distribution: bool  # further out than 99.9 % of the training states
    spread: float  # standard deviation of the ensemble's members, the largest over assets
    familiarity: float  # share of training states at least as far out as this one


class Step(NamedTuple):
    """A Decision for whoever counts microseconds: the same fields, the multipliers as a list."""

    multipliers: list[float]
    confidence: float
    memory: F32
    out_of_distribution: bool
    spread: float
    familiarity: float


class Decisions(NamedTuple):
    """The Decisions on a batch, field by field."""

    multipliers: FloatArray  # (B, A)
    confidence: FloatArray  # (B,)
    memory: F32  # (B, S)
    out_of_distribution: BoolArray  # (B,)
    spread: FloatArray  # (B,)
    familiarity: FloatArray  # (B,)

    def lists(self) -> tuple[list[Any], ...]:
        """The same as plain numbers; the memories as rows."""
        return tuple(list(part) if part is self.memory else part.tolist() for part in self)


class Policy:
    """A loaded bundle. Build one with `load_policy`; `print(policy)` is a page of what it is.

    >>> from himari_rl import PPOConfig, train
    >>> from himari_rl.data.synthetic import synthetic_bars
    >>> small = PPOConfig(num_envs=20, hidden_dim=8, minibatch=500)
    >>> policy = train(synthetic_bars(1000, 0), out="policy", agent=small, num_episodes=2, seeds=1)
    >>> decision = policy.decide([0.8, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0.01, 0.02, 0.05, 0.5, 0.1])
    >>> bool(0.0 <= decision.multipliers[0] <= 2.0)
    True
    """

    def __init__(self, manifest: Manifest, tensors: Mapping[str, F32], folder: str | Path | None = None) -> None:
        self.manifest, self.folder = manifest, folder
        self._members = [Member(manifest, tensors, i) for i in range(len(manifest.seeds))]
        self._normaliser = InputNormaliser(manifest.normaliser)
        self._confidence = Confidence(manifest.confidence)
        self._head_one, self._head_many = HEADS[manifest.network.head]
        self._dim = manifest.state_dim
        self._believer = None if manifest.beliefs is None else Believer(manifest.beliefs, manifest.action_dim)
        self._remembered = 0 if self._believer is None else self._believer.memory_size  # the first numbers of a memory
        self._state = np.zeros(manifest.inputs, np.float32)
        self._input = with_one(manifest.inputs)
        self._x = self._input[: manifest.inputs]
        self.memory_size = self._remembered + sum(member.memory_size for member in self._members)
        self._memory = np.zeros(self.memory_size, np.float32)  # of the decision being made
        self._parts: list[tuple[Member, F32]] = []
        end = self._remembered
        for member in self._members:
            self._parts.append((member, self._memory[end : end + member.memory_size]))
            end += member.memory_size

    def __repr__(self) -> str:
        return f"<Policy {self.manifest.version} of {', '.join(self.manifest.symbols)}>"

    def __str__(self) -> str:
        return self.summary()

    def summary(self) -> str:
        """A page: version, kind, symbols, training data, seeds, ledger, evaluation and gate."""
        return policy_page(self.manifest)

    @property
    def lookback(self) -> int:
        """Earlier market rows that `bands` may be given to remember; 0 where only a stream's own past counts."""
        return 0 if self._believer is None else LOOKBACK

    def initial_memory(self, batch: int | None = None) -> F32:
        """Memory before the first state: (S,), or (batch, S). S is 0 for a policy without memory."""
        return np.zeros(self.memory_size if batch is None else (batch, self.memory_size), np.float32)

    def decide(self, state: Sequence[float] | NDArray[np.floating], memory: F32 | None = None) -> Decision:
        """One decision.

        Args:
            state: (F,) as the encoder makes it.
            memory: (S,) from the previous decision; None starts an episode. It is not changed.

        Raises:
            StateError: the state or the memory has another length, or is not finite.
            BundleError: the network answers something that is not a multiplier.
        """
        values = state.tolist() if isinstance(state, np.ndarray) else state
        found = self.step(values, memory)
        return Decision(np.array(found.multipliers), *found[1:])

    def step(self, values: Sequence[float], memory: F32 | None = None) -> Step:
        """`decide` on plain numbers, without an array in the answer.

        Raises:
            as `decide`.
        """
        if len(values) != self._dim:
            raise _wrong_length(len(values), self._dim)
        if memory is not None or self.memory_size:
            self._start(memory)
        if self._believer is None:
            self._state[:] = values
            anchor = None
        else:
            anchor = self._believe(values)
        distance = self._normaliser.one(self._state, self._x) / self._normaliser.kept
        answers = [self._head_one(member.one(self._input, own), values, anchor) for member, own in self._parts]
        multipliers, spread = (answers[0], 0.0) if len(answers) == 1 else _combine(answers)
        for value in multipliers:
            if not 0.0 <= value <= MAX_MULTIPLIER:  # NaN fails both
                raise self._no_answer(self._state)
        confidence, outside, familiarity = self._confidence.judge(distance, spread)
        after = self._memory.copy() if self.memory_size else self._memory
        # tuple.__new__: a third of what a call of Step costs
        return tuple.__new__(Step, (multipliers, confidence, after, outside, spread, familiarity))

    def _believe(self, values: Sequence[float]) -> list[float]:
        """Fills the network's input with state and beliefs, advances what is remembered; the anchors (A,)."""
        assert self._believer is not None
        columns, after = self._believer.one(values, self._memory[: self._remembered].tolist())
        self._state[: self._dim] = values
        self._state[self._dim :] = columns
        self._memory[: self._remembered] = after
        return columns[: self.manifest.action_dim]

    def decide_batch(self, states: NDArray[np.floating], memory: F32 | None = None) -> tuple[FloatArray, F32]:
        """Decisions for states (B, F): multipliers (B, A) and the new memory (B, S).

        Raises:
            StateError: the states or the memory have another shape, or are not finite.
            BundleError: the network answers something that is not a multiplier.
        """
        if states.ndim != 2 or states.shape[1] != self._dim:
            raise StateError(f"states have shape {states.shape}", f"(B, {self._dim})", "send whole states")
        rows = np.asarray(states, np.float32)
        before = self.initial_memory(len(rows)) if memory is None else np.asarray(memory, np.float32)
        if before.shape != (len(rows), self.memory_size):
            raise StateError(f"memory has shape {before.shape}", f"{(len(rows), self.memory_size)}", _KEEP_MEMORY)
        answers, after, _ = self._many(rows, before)
        return self._mean(answers, rows), after

    def inputs(self, states: F32, memory: F32 | None = None) -> F32:
        """(B, F + 3 A) what the networks read of states (B, F or more) before they are normalised."""
        rows = states[:, : self._dim]
        if self._believer is None:
            return rows
        before = self.initial_memory(len(rows)) if memory is None else memory
        columns, _ = self._believer.advance(rows, before[:, : self._remembered])
        return np.column_stack([rows, columns.astype(np.float32)])

    def steps(self, states: Sequence[Sequence[float]], memories: Sequence[F32 | None]) -> list[Step]:
        """`step` for the states of many clients, each with its own memory or None, as one batch.

        A batch sums in another order than `step`, so its answers agree with it to 1e-6 (float32), not to the last bit.

        Raises:
            as `decide`; one that is wrong refuses them all.
        """
        for state in states:
            if len(state) != self._dim:
                raise _wrong_length(len(state), self._dim)
        rows = np.array(states, np.float32).reshape(len(states), self._dim)
        before = self.initial_memory(len(rows))
        for own, memory in zip(before, memories, strict=True):
            if memory is not None:
                if memory.shape != own.shape:
                    raise self._no_memory(memory)
                own[:] = memory
        if not np.isfinite(before).all():
            raise self._no_memory(before[0])
        return [tuple.__new__(Step, row) for row in zip(*self.columns(rows, before).lists(), strict=True)]

    def columns(self, rows: F32, before: F32 | None = None) -> Decisions:
        """`steps` for states (B, F) and memories (B, S), or none, that are arrays already.

        Raises:
            StateError, BundleError: as `decide_batch`.
        """
        answers, after, x = self._many(rows, self.initial_memory(len(rows)) if before is None else before)
        multipliers = self._mean(answers, rows)
        spread = answers.std(axis=0).max(axis=1) if len(answers) > 1 else np.zeros(len(rows))
        distance = np.einsum("bf,bf->b", x, x).astype(np.float64) / self._normaliser.kept
        confidence, outside, familiarity = self._confidence.judge_many(distance, spread)
        return Decisions(multipliers, confidence, after, outside, spread, familiarity)

    def bands(self, rows: FloatArray) -> Bands | None:
        """The answers to market rows (T, F), in order, for any position; None where the network reads the account.

        Raises:
            StateError, BundleError: as `decide_batch`.
        """
        assets = self.manifest.action_dim
        kept = np.flatnonzero(self._normaliser.keep)
        state = kept[kept < self._dim].tolist()
        shares = state_dim(assets) - 1 if assets > 1 else -1  # the concentration of exposure
        if any(k == shares if k >= WIDTH * assets else k % WIDTH in ACCOUNT_COLUMNS for k in state):
            return None
        found = bands(self._members, self._normaliser, self._head_many, rows, assets, self._believer)
        if not ((found.low >= 0.0) & (found.low <= found.high) & (found.high <= MAX_MULTIPLIER)).all():  # NaN fails all
            raise self._no_answer(np.asarray(rows, np.float32))
        return found

    def along(self, rows: FloatArray, side: FloatArray, lanes: int) -> tuple[FloatArray, FloatArray] | None:
        """Multipliers (T, A) and confidences (T,) on market rows in order, the account holding what was decided before.

        What is remembered comes from the rows before, and the account begins anew at each of `lanes` equal stretches.
        None where the network reads the account.

        Args:
            side: (T, A) direction of the base position from each row on: +1, -1 or 0.
        """
        found = self.bands(rows)
        if found is None:
            return None
        answers = followed(found, lanes, side)
        seen = np.asarray(rows[:, : self._dim], np.float32)
        if self._believer is not None:
            seen = np.column_stack([seen, np.asarray(self._believer.history(seen), np.float32)])
        x = self._normaliser.many(seen)
        distances, spreads = np.einsum("bf,bf->b", x, x), answers.std(axis=1).max(axis=1)
        judged = zip((distances / self._normaliser.kept).tolist(), spreads.tolist(), strict=True)
        return answers.mean(axis=1), np.array([self._confidence(*each) for each in judged])

    def _many(self, rows: F32, before: F32) -> tuple[FloatArray, F32, F32]:
        """Every member's multipliers (M, B, A), the new memory (B, S) and the normalised inputs for `rows` (B, F)."""
        assets, offset, anchor, inputs = self.manifest.action_dim, self._remembered, None, rows
        answers, after = np.empty((len(self._members), len(rows), assets)), []
        if self._believer is not None:
            columns, remembered = self._believer.advance(rows, before[:, :offset])
            inputs = np.column_stack([rows, columns.astype(np.float32)])
            anchor = inputs[:, self._dim : self._dim + assets]
            after.append(remembered.astype(np.float32))
        x = self._normaliser.many(inputs)
        for answer, member in zip(answers, self._members, strict=True):
            out, advanced = member.many(x, before[:, offset : offset + member.memory_size])
            answer[:] = self._head_many(out, rows, anchor)
            after.append(advanced)
            offset += member.memory_size
        return answers, np.concatenate(after, axis=1), x

    def _mean(self, answers: FloatArray, rows: F32) -> FloatArray:
        """Mean over members, (B, A).

        Raises:
            StateError, BundleError: some of it is not a multiplier.
        """
        mean: FloatArray = answers.sum(axis=0) / len(answers)
        if not ((mean >= 0.0) & (mean <= MAX_MULTIPLIER)).all():  # NaN fails both
            raise self._no_answer(rows)
        return mean

    def _start(self, memory: F32 | None) -> None:
        """Copies the memory to where this decision advances it."""
        if memory is None:
            self._memory[:] = 0.0
            return
        if self.memory_size == 0 and memory.size:
            raise StateError(f"memory of {memory.size} numbers", "none: this policy has no memory", _KEEP_MEMORY)
        if memory.shape == self._memory.shape:
            self._memory[:] = memory
            # the first is quick, and False for NaN
            if self._memory.dot(self._memory) < math.inf or np.isfinite(memory).all():
                return
        raise self._no_memory(memory)

    def _no_memory(self, memory: F32) -> StateError:
        return StateError(f"memory has shape {memory.shape}", f"({self.memory_size},), finite", _KEEP_MEMORY)

    def _no_answer(self, states: F32) -> StateError | BundleError:
        if not np.isfinite(states).all():
            return StateError("the state holds NaN or infinity", "finite numbers", "fix the feature upstream")
        version = self.manifest.version
        return BundleError(f"{version} answers no multiplier to a finite state", "0 to 2", "roll back and train again")


_KEEP_MEMORY = "pass back the memory of the previous decision of the same policy unchanged"


def load_policy(folder: str | Path) -> Policy:
    """Reads a bundle, checks all of it (digests, shapes, finiteness, encoder) and makes it answer.

    Raises:
        BundleError: the bundle is missing, damaged, or was trained with another encoder; it is code that is not
            here, or that nobody allowed (policy/code.py).
        StorageError: a file exists but cannot be read.

    >>> from himari_rl import PPOConfig, train
    >>> from himari_rl.data.synthetic import synthetic_bars
    >>> small = PPOConfig(num_envs=20, hidden_dim=8, minibatch=500)
    >>> policy = train(synthetic_bars(1000, 0), out="loaded", agent=small, num_episodes=2, seeds=1)
    >>> load_policy("loaded/bundle").manifest.version == policy.manifest.version
    True
    """
    manifest, tensors = read_bundle(folder)
    own = manifest.own_features
    encoder, features = schema_hash(manifest.symbols, own), state_dim(len(manifest.symbols), len(own))
    if manifest.encoder_hash != encoder or manifest.state_dim != features:
        raise BundleError(
            f"{folder} was trained on encoder {manifest.encoder_hash} with {manifest.state_dim} features",
            f"{encoder} with {features}",
            "train and export it again with this release",
        )
    if manifest.kind == "external":
        from himari_rl.policy.external import external_policy

        return external_policy(manifest, tensors, folder)
    return Policy(manifest, tensors, folder)


def _combine(answers: list[list[float]]) -> tuple[list[float], float]:
    """Mean over members for each asset, and the largest standard deviation."""
    count = len(answers)
    means, spread = [], 0.0
    for column in zip(*answers, strict=True):
        mean = sum(column) / count
        means.append(mean)
        spread = max(spread, math.sqrt(sum((value - mean) ** 2 for value in column) / count))
    return means, spread


def _wrong_length(length: int, expected: int) -> StateError:
    return StateError(f"the state has {length} numbers", f"{expected}", "send every feature in the encoder's order")
