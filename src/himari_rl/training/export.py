"""Export: agents become one bundle, and the bundle must answer as the agents do.

The parity check is not a test but part of the export: torch and the numpy runtime decide the same states, and a
difference above 1e-5 refuses the bundle.

    write_bundle(folder, *bundled(agents, seeds, ...))
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from himari_rl.agents.ppo_agent import PPOAgent
from himari_rl.config import as_dict, config_hash
from himari_rl.envs.config import TradingEnvConfig
from himari_rl.errors import BundleError
from himari_rl.features.encoder import StateEncoder
from himari_rl.policy import confidence
from himari_rl.policy.beliefs import Beliefs
from himari_rl.policy.bundle import Manifest, Tensors, new_manifest
from himari_rl.policy.drift_reference import reference_of
from himari_rl.policy.manifest import LedgerSpec
from himari_rl.policy.runtime import Policy
from himari_rl.schema import FloatArray, IntArray
from himari_rl.training.record import code_version, now

PARITY = 1e-5
PARITY_STATES, PARITY_LANES = 512, 64


def bundled(
    agents: Sequence[PPOAgent],
    seeds: Sequence[int],
    encoder: StateEncoder,
    environment: TradingEnvConfig,
    training_data: Mapping[str, Any],
    states: FloatArray,
    run: Mapping[str, Any],
    beliefs: Beliefs | None = None,
    *,
    drift: IntArray | None = None,
) -> tuple[Manifest, Tensors]:
    """The manifest, without digests yet, and the tensors of a bundle: one member for each agent.

    Args:
        states: (N, F) raw training states, with their belief columns where there are beliefs; they calibrate the
            confidence and check the parity.
        training_data: the manifest's field: sha256, source, start, end, rows, interval_ms, synthetic.
        run: how it was trained, for people: budget, seconds.
        drift: (N,) opening times of the states, ms UTC, where live ones are to be held against them.

    Raises:
        BundleError: numpy and torch disagree by more than 1e-5 on any state.
    """
    agents = [on_cpu(agent) for agent in agents]
    first = agents[0]
    settings = as_dict(first.config)
    draft = new_manifest(
        kind=first.kind if first.config.action_dim == 1 else "multi",
        symbols=list(encoder.symbols),
        state_dim=encoder.state_dim,
        action_dim=first.config.action_dim,
        feature_names=list(encoder.names),
        encoder_hash=encoder.schema_hash,
        normaliser=first.normaliser.spec(),
        network=first.network_spec(),
        beliefs=beliefs,
        seeds=list(seeds),
        training_data=dict(training_data),
        ledger=LedgerSpec.of(environment, training_data["interval_ms"]),
        config={"agent": settings, "environment": as_dict(environment), "run": dict(run), **first.serving_config()},
        config_hash=config_hash(first.config),
        code_version=code_version(),
        created_at=now().isoformat(timespec="seconds"),
        confidence=confidence.fit(first.normalised_rows(states), np.asarray(first.normaliser.keep, np.float64)),
    )
    tensors = {f"{i}.{name}": array for i, agent in enumerate(agents) for name, array in agent.tensors().items()}
    policy = Policy(draft, tensors)
    check_parity(policy, agents, states)
    if drift is not None:
        interval_ms, own = training_data["interval_ms"], encoder.own
        found = reference_of(policy, states, encoder.symbols, environment.allow_short, interval_ms, own, drift)
        draft = draft.model_copy(update={"drift": found})
    return draft, tensors


@torch.no_grad()
def check_parity(policy: Policy, agents: Sequence[PPOAgent], states: FloatArray) -> float:
    """The largest difference between the runtime and the agents' mean, over up to 512 states.

    One pass where nothing is remembered; else the states are walked as 64 sequences, so that memories are checked too.

    Raises:
        BundleError: it exceeds 1e-5.
    """
    agents = [on_cpu(agent) for agent in agents]
    some = np.asarray(states[:: max(1, len(states) // PARITY_STATES)], np.float32)
    lanes = PARITY_LANES if policy.memory_size else len(some)
    memory, memories = None, [agent.initial_memory(lanes) for agent in agents]
    worst = 0.0
    for step in range(0, len(some), lanes):
        rows = some[np.arange(step, step + lanes) % len(some)]
        believed = policy.inputs(rows, memory)
        ours, memory = policy.decide_batch(rows[:, : policy.manifest.state_dim], memory)
        answers = []
        for i, agent in enumerate(agents):
            answer, memories[i] = agent.decide(torch.as_tensor(believed), memories[i])
            answers.append(answer.double().numpy())
        worst = max(worst, float(np.abs(ours - np.mean(answers, axis=0)).max()))
    if not worst <= PARITY:
        raise BundleError(
            f"the runtime and the trained agent differ by {worst:.2e}", f"at most {PARITY:.0e}", "nothing was exported"
        )
    return worst


def on_cpu(agent: PPOAgent) -> PPOAgent:
    """The agent where numpy can read it; one on a GPU is copied, so that its trainer can go on."""
    return agent if agent.out.weight.device.type == "cpu" else copy.deepcopy(agent).cpu()
