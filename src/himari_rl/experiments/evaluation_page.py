"""The page of `himari evaluate --html`: the verdict's document, its curves and what the market did, put together."""

from __future__ import annotations

from himari_rl.card.market import market_curves
from himari_rl.card.pages import evaluation_page
from himari_rl.card.source import Source
from himari_rl.data.panel import Panel
from himari_rl.evaluation.record import arrays_of
from himari_rl.evaluation.verdict import lag_profile
from himari_rl.experiments.evaluate import Evaluation
from himari_rl.experiments.shipped import shipped_answers
from himari_rl.features.own import with_features
from himari_rl.policy.runtime import Policy
from himari_rl.schema import Bars


def evaluation_html(policy: Policy, bars: Bars | Panel, found: Evaluation) -> str:
    """One HTML file that needs no network.

    Args:
        bars: as given to `evaluate`; the policy's behaviour is drawn on the newest of them.

    Raises:
        ConfigError: Jinja2 is not installed.
    """
    manifest, result = policy.manifest, found.backtest
    spec, own = manifest.ledger, manifest.own_features
    bars = with_features(bars, own)
    first = len(bars) - 2 - len(result)
    curves = arrays_of(result, shipped_answers(policy, bars) | market_curves(bars, spec, first))
    mine = result.run(found.verdict.policy)
    source = Source(
        symbols=result.symbols,
        verdict=found.document["verdict"],
        controls=found.document["controls"],
        detectable=found.detectable,
        curves=curves,
        ledger=spec.config,
        facts=[fact.as_json() for fact in found.facts],
        accepted=found.document.get("accepted", ()),
        notes=found.notes,
        policy=None if manifest.external is not None and not manifest.external.ships else policy,
        own_features=own,
        lag_profile=lag_profile(mine.exposure, result.asset_return),
    )
    return evaluation_page(source, found.document)
