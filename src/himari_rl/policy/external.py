"""A policy of somebody's own code, in a bundle of kind `external`: the code by reference and hash, what it learned as
arrays, and its answers on some training states, so that other code or another restoring is found out.

What a fitted policy keeps, in the first way that it allows:
    arrays       the policy's `arrays()`, brought back by its factory's `restore(arrays)`
    attributes   the plain attributes (numbers, text, arrays) of a class in the factory's module
    refit        nothing: it is fitted again where its training rows are, and cannot be loaded elsewhere

Nothing is pickled: reading a bundle never runs anything.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from himari_rl.errors import BundleError, StateError
from himari_rl.policy.bands import Bands
from himari_rl.policy.code import CodeReference, Factory, packages_of, resolved
from himari_rl.policy.confidence import Confidence
from himari_rl.policy.manifest import ExternalSpec, Manifest, TensorSpec
from himari_rl.policy.network import F32, InputNormaliser
from himari_rl.policy.protocol import DecidesBatch, bands_of, timed
from himari_rl.policy.runtime import Policy, Step
from himari_rl.schema import MAX_MULTIPLIER, FloatArray, IntArray

Way = Literal["arrays", "attributes", "refit"]
ARRAYS: Way = "arrays"
ATTRIBUTES: Way = "attributes"
REFIT: Way = "refit"
ASKED, ANSWERED = "asked", "answered"  # beside what was kept: training states, and what was answered
KEPT = "kept."  # before the names of what was kept
PROBES = 64
SAME = 1e-5  # as training/export.py asks of numpy and torch
Arrays = dict[str, NDArray[Any]]
_FITTED: dict[tuple[str, ...], DecidesBatch] = {}


def kept(policy: object, factory: Factory) -> tuple[Way, Arrays]:
    """In which way a fitted policy is kept, and the arrays that do it."""
    arrays = getattr(policy, "arrays", None)
    if callable(arrays) and callable(getattr(factory, "restore", None)):
        return ARRAYS, {str(name): np.ascontiguousarray(value) for name, value in arrays().items()}
    plain = _attributes(policy, factory)
    return (REFIT, {}) if plain is None else (ATTRIBUTES, plain)


def _attributes(policy: object, factory: Factory) -> Arrays | None:
    kind, module = type(policy), getattr(factory, "__module__", "")
    if kind.__module__ != module or "<locals>" in kind.__qualname__ or not hasattr(policy, "__dict__"):
        return None
    there: Any = sys.modules.get(module)
    for part in kind.__qualname__.split("."):
        there = getattr(there, part, None)
    if there is not kind:  # a script that something ran under a name of its own: nobody else could find it
        return None
    values = {name: v.item() if isinstance(v, np.generic) else v for name, v in vars(policy).items()}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    text = repr((kind.__qualname__, {name: value for name, value in values.items() if name not in arrays}))
    try:
        if repr(ast.literal_eval(text)) != text:
            return None
    except (ValueError, SyntaxError):
        return None
    if any(value.dtype.kind not in "biuf" for value in arrays.values()):
        return None
    return {"": np.frombuffer(text.encode(), np.uint8)} | {n: np.ascontiguousarray(v) for n, v in arrays.items()}


def restored(way: str, arrays: Arrays, factory: Factory) -> DecidesBatch:
    """The policy that `kept` kept, but for one that has to be fitted again."""
    if way == ARRAYS:
        back: DecidesBatch = factory.restore(arrays)  # type: ignore[attr-defined]  # `kept` has seen that it is there
        return back
    called, values = ast.literal_eval(arrays[""].tobytes().decode())
    kind: Any = sys.modules[factory.__module__]
    for part in called.split("."):
        kind = getattr(kind, part)
    made: DecidesBatch = kind.__new__(kind)
    vars(made).update(values | {name: value for name, value in arrays.items() if name})
    return made


def remember(manifest: Manifest, seed: int, policy: DecidesBatch) -> None:
    """Keeps a fitted policy in this process, for one that cannot be kept as arrays."""
    _FITTED[_fitted_key(manifest, seed)] = policy


def is_at_hand(manifest: Manifest, seed: int) -> bool:
    """Whether this process needs not fit it again."""
    return external_of(manifest).kept != REFIT or _fitted_key(manifest, seed) in _FITTED


def _fitted_key(manifest: Manifest, seed: int) -> tuple[str, ...]:
    spec = external_of(manifest)
    return (*spec.reference.key, manifest.training_data.sha256, str(seed))


def external_of(manifest: Manifest) -> ExternalSpec:
    """The part of the manifest that names the code.

    Raises:
        BundleError: a policy that is no code.
    """
    if manifest.external is None:
        raise BundleError(f"{manifest.version} is a network", "a policy of kind external")
    return manifest.external


def described_tensors(tensors: Mapping[str, NDArray[Any]]) -> dict[str, TensorSpec]:
    """What the manifest says of the tensors of an external policy."""
    return {name: TensorSpec(dtype=str(v.dtype), shape=v.shape) for name, v in sorted(tensors.items())}


def probed(policy: DecidesBatch, rows: FloatArray, assets: int) -> Arrays:
    """Training states and the policy's answers, to know it again by; none of one that goes by the clock."""
    if hasattr(policy, "at"):
        return {}
    asked = np.asarray(rows[:: max(1, len(rows) // PROBES)][:PROBES], np.float32)
    return {ASKED: asked, ANSWERED: ask(policy, asked, None, assets, "the policy")[0]}


def ask(policy: DecidesBatch, rows: F32, memory: Any, assets: int, who: str) -> tuple[FloatArray, Any]:
    """(B, A) answers to states (B, F), and the new memory; as numbers that a ledger can use.

    Raises:
        BundleError: answers of another shape, or that are no multipliers.
    """
    said, memory = policy.decide_batch(rows.astype(np.float64), memory)
    answers = np.asarray(said, np.float64)
    if answers.shape == (len(rows),) and assets == 1:
        answers = answers[:, None]
    if answers.shape != (len(rows), assets):
        raise BundleError(f"{who} answers {answers.shape}", f"({len(rows)}, {assets}): one multiplier an asset")
    if not ((answers >= 0.0) & (answers <= MAX_MULTIPLIER)).all():  # NaN fails both
        if not np.isfinite(rows).all():
            raise StateError("the state holds NaN or infinity", "finite numbers", "fix the feature upstream")
        worst = answers[~((answers >= 0.0) & (answers <= MAX_MULTIPLIER))][0]
        raise BundleError(f"{who} answers {worst:g}", "multipliers from 0 to 2", "clip what it answers")
    return answers, memory


class ExternalPolicy(Policy):
    """Somebody's policies, one a seed, behind the face of a loaded bundle: the answer is their mean.

    What they remember from bar to bar is their own affair in a backtest; a server cannot carry it and says so.
    """

    def __init__(
        self,
        manifest: Manifest,
        deciders: Sequence[DecidesBatch],
        folder: str | Path | None = None,
    ) -> None:
        self.manifest, self.folder = manifest, folder
        self._deciders = list(deciders)
        self._who = external_of(manifest).name
        self._normaliser = InputNormaliser(manifest.normaliser)
        self._confidence = Confidence(manifest.confidence)
        self._dim, self._believer, self._remembered, self.memory_size = manifest.state_dim, None, 0, 0
        self._memory = np.zeros(0, np.float32)

    def at(self, fill_time: IntArray) -> DecidesBatch:
        """The same for decisions that are filled at these times; only what goes by the clock changes."""
        return ExternalPolicy(self.manifest, [timed(each, fill_time) for each in self._deciders], self.folder)

    def bands(self, rows: FloatArray) -> Bands | None:
        found = [bands_of(each, rows) for each in self._deciders]
        known = [each for each in found if each is not None]
        if len(known) < len(found):
            return None
        low, high = (np.concatenate([getattr(each, edge) for each in known], axis=1) for edge in ("low", "high"))
        return Bands(low, high, known[0].lean, known[0].hold)

    def step(self, values: Sequence[float], memory: Any = None) -> Step:
        if len(values) != self._dim:
            raise StateError(f"the state has {len(values)} numbers", f"{self._dim}", "send every feature")
        if memory is not None and np.size(memory):
            raise StateError(f"memory of {np.size(memory)} numbers", "none: this policy has no memory")
        one = self.columns(np.array([values], np.float32))
        return Step(*next(zip(*one.lists(), strict=True)))

    def decide_batch(self, states: NDArray[np.floating], memory: Any = None) -> tuple[FloatArray, Any]:
        if states.ndim != 2 or states.shape[1] != self._dim:
            raise StateError(f"states have shape {states.shape}", f"(B, {self._dim})", "send whole states")
        rows = np.asarray(states, np.float32)
        before = memory if memory else (None,) * len(self._deciders)
        found = [self._ask(each, rows, own) for each, own in zip(self._deciders, before, strict=True)]
        after = tuple(own for _, own in found)
        mean: FloatArray = np.mean([answers for answers, _ in found], axis=0)
        return mean, after if any(own is not None for own in after) else None

    def _ask(self, policy: DecidesBatch, rows: F32, memory: Any) -> tuple[FloatArray, Any]:
        return ask(policy, rows, memory, self.manifest.action_dim, self._who)

    def _many(self, rows: F32, before: F32) -> tuple[FloatArray, F32, F32]:
        found = [self._ask(each, rows, None) for each in self._deciders]
        if any(memory is not None for _, memory in found):
            raise BundleError(
                f"{self._who} remembers something from bar to bar, which a server cannot carry for it",
                "a policy that answers a state alone",
                "put what it needs into the state",
            )
        return np.array([answers for answers, _ in found]), before, self._normaliser.many(rows)


def external_policy(
    manifest: Manifest, tensors: Mapping[str, NDArray[Any]], folder: str | Path | None = None, *, told: bool = False
) -> ExternalPolicy:
    """Makes an external bundle answer, and checks that it answers as it did when it was fitted.

    Raises:
        BundleError: nobody allowed its code, it is not here or another one, or it answers otherwise.
    """
    spec = external_of(manifest)
    factory = resolved(spec.reference, told=told, restoring=spec.kept == ARRAYS)
    deciders = []
    for i, seed in enumerate(manifest.seeds):
        own = {name.partition(".")[2]: value for name, value in tensors.items() if name.partition(".")[0] == str(i)}
        if spec.kept == REFIT:
            decider = _FITTED.get(_fitted_key(manifest, seed))
            if decider is None:
                raise BundleError(
                    f"what {spec.name} fitted cannot be kept as arrays, and it was not fitted in this process",
                    "a policy with arrays() and a factory with restore(arrays), or plain attributes",
                    "see docs/judge.md",
                )
        else:
            arrays = {name.removeprefix(KEPT): value for name, value in own.items() if name.startswith(KEPT)}
            decider = restored(spec.kept, arrays, factory)
        if ASKED in own:
            now, _ = ask(decider, own[ASKED], None, manifest.action_dim, spec.name)
            difference = float(np.abs(now - own[ANSWERED]).max())
            if not difference <= SAME:
                raise BundleError(
                    f"{spec.name} with seed {seed} answers otherwise than when it was fitted, by {difference:.1e}",
                    f"at most {SAME:.0e}",
                    "make it fit the same way each time, with the seed that it is given",
                )
        deciders.append(decider)
    return ExternalPolicy(manifest, deciders, folder)


def reference_spec(code: CodeReference, way: Way, tensors: Mapping[str, NDArray[Any]], ships: bool) -> ExternalSpec:
    """The manifest's part of an external policy."""
    return ExternalSpec(
        name=code.name,
        sha256=code.sha256,
        settings=code.settings,
        modules=dict(code.modules),
        packages=packages_of(code),
        kept=way,
        ships=ships,
        tensors=described_tensors(tensors),
    )
