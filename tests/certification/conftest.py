"""What naive policies earn on a market's grading paths is the same in every certificate of it: it is found once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from himari_rl.certification import certificates
from himari_rl.certification.grading import Grade
from himari_rl.certification.law import KnownMarket


@pytest.fixture(autouse=True, scope="session")
def _naive_policies_are_graded_once() -> Iterator[None]:
    graded, known = certificates.graded_naively, dict[Any, dict[str, Grade]]()

    def asked(market: KnownMarket, seed: int, naive: dict[str, Any], **size: int) -> dict[str, Grade]:
        key = market, seed, tuple(naive), tuple(sorted(size.items()))
        if key not in known:
            known[key] = graded(market, seed, naive, **size)
        return dict(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificates, "graded_naively", asked)
        yield
