"""A policy prints as a page of its facts, and a policy of ten lines is asked like a bundle."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.bundle import SYMBOLS, make_bundle, make_manifest, valid_states
from himari_rl.policy.bundle import amend
from himari_rl.policy.page import policy_page
from himari_rl.policy.protocol import HasBands, bands_of
from himari_rl.policy.runtime import load_policy


@pytest.mark.parametrize("kind", ["base", "lstm", "multi"])
def test_print_shows_what_a_policy_is_and_no_address(tmp_path: Path, kind: str) -> None:
    policy = load_policy(make_bundle(tmp_path, kind))
    manifest, shown = policy.manifest, str(policy)
    data, ledger = manifest.training_data, manifest.ledger
    facts = [manifest.version, kind, *SYMBOLS[kind], data.source, f"{data.rows:,}", data.start, data.end]
    facts += [str(seed) for seed in manifest.seeds]
    facts += [f"{100 * ledger.max_position_pct:.0f}%", f"{1e4 * ledger.commission_rate:g} bps"]
    assert [fact for fact in facts if fact not in shown] == []
    assert "not been judged" in shown
    assert "nothing has released this policy" in shown
    assert (policy.summary(), repr(policy).count("\n")) == (shown, 0)
    assert manifest.version in repr(policy)
    assert "0x" not in shown + repr(policy)
    assert max(map(len, shown.splitlines())) <= 120


def test_the_page_shows_the_verdict_and_the_gate(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    gate = {"passed": False, "reason": "refused by edge", "exceptions": ["allow-leak: reviewed"]}
    amend(bundle, evaluation={"sentence": "No edge was shown: keep 1.0."}, gate=gate)
    shown = str(load_policy(bundle))
    assert "No edge was shown: keep 1.0." in shown
    assert "refused by edge, with exceptions: allow-leak: reviewed" in shown
    assert "artificial" not in policy_page(_recorded())


def _recorded():
    data = make_manifest().training_data.model_dump() | {"synthetic": False}
    return make_manifest(training_data=data)


class Half:
    def decide_batch(self, states, memory=None):
        return np.full((len(states), 1), 0.5), memory


def test_bands_are_asked_only_of_a_policy_that_has_them(tmp_path: Path) -> None:
    states = valid_states(5)
    assert bands_of(Half(), states) is None
    assert not isinstance(Half(), HasBands)
    blind = make_manifest().normaliser.model_dump()
    blind["keep"] = [0 if 8 <= k <= 14 and k in (8, 9, 10, 14) else 1 for k in range(16)]
    policy = load_policy(make_bundle(tmp_path, normaliser=blind))
    assert isinstance(policy, HasBands)
    assert bands_of(policy, states) is not None
    assert bands_of(SimpleNamespace(bands=policy.bands), states) is not None  # bands alone are enough
