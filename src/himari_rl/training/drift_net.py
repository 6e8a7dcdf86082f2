"""The drift net: what the order of the bars says about the drift, as one more column of the evidence.

An LSTM reads the evidence's scores bar by bar and is fitted to y, what the prior leaves unexplained. What it says of
its own training rows proves nothing, so it is cross-fitted (Chernozhukov et al. 2018, "Double/debiased machine
learning"): a net of each half of the time answers for the other half, and this out-of-fold drift is the last column of
the evidence, behind all that needs no memory and with the penalty of the nonlinear columns. What is believed of it is
what a net of all rows will be paid for. Where nothing is believed there is no net, and the beliefs are those before.

Deterministic: every random number comes from one generator with a seed of its own, so that the beliefs of a history do
not depend on which seeds are trained on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from himari_rl.policy.beliefs import Beliefs, moments
from himari_rl.policy.drift_net import DriftNet, DriftRunner
from himari_rl.policy.evidence import relative_variance
from himari_rl.policy.ledger_config import LedgerConfig
from himari_rl.schema import FloatArray, IntArray
from himari_rl.training.beliefs import ObservedPath, Prior, active_rows, fit_evidence, thinned
from himari_rl.training.device import one_thread
from himari_rl.training.optimiser import FlatAdamW

CELLS = 8
WINDOW, WARM = 128, 32  # bars of back-propagation, and those at their start whose answers are not graded
BATCH = 32  # windows of a step
STEPS, LOOK = 600, 20  # gradient steps at most, and between two looks at the validation bars
PATIENCE = 6  # looks without a new best
VALIDATION = 0.25  # last share of the windows, on which a net is stopped
LEARNING_RATE, WEIGHT_DECAY = 5e-3, 1e-2
LEAST_WINDOWS = 16  # of a half


class NetSeries(NamedTuple):
    """One history as the net reads it."""

    inputs: FloatArray  # (T, F) scores; zeros while no volatility is known
    target: FloatArray  # (T,) y in units of its standard deviation; 0 where nothing is graded
    weight: FloatArray  # (T,) 1 / h, as the evidence counts its rows, where a position is possible; else 0
    day: IntArray  # (T,) UTC day


class Windows(NamedTuple):
    """Stretches of WINDOW bars."""

    inputs: Tensor  # (W, WINDOW, F)
    target: Tensor  # (W, WINDOW)
    weight: Tensor  # (W, WINDOW) of a bar's squared error; 0 where it is not graded


class CrossFit(NamedTuple):
    """A net of all rows, and what the halves say of each other."""

    net: DriftNet  # in units of the target
    columns: list[FloatArray]  # (T,) of each history, out of fold


class _Net(nn.Module):
    """LSTM -> linear. The output starts at zero: a net that learns nothing says nothing."""

    def __init__(self, inputs: int, generator: torch.Generator) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, CELLS, batch_first=True)
        self.out = nn.Linear(CELLS, 1)
        with torch.no_grad():
            matrices, (bias, other) = self.parts()
            for matrix in matrices:
                bound = 1.0 / math.sqrt(matrix.shape[1])
                matrix.uniform_(-bound, bound, generator=generator)
            # Tallec & Ollivier 2018: cells that begin by remembering from a few bars to a whole window
            span = torch.empty(CELLS).uniform_(1.0, WINDOW - 1.0, generator=generator).log()
            none = torch.zeros(CELLS)
            bias.copy_(torch.cat([-span, span, none, none]))
            for parameter in (other, self.out.weight, self.out.bias):
                parameter.zero_()

    def parts(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The LSTM's matrices (inputs, memory), and torch's two biases."""
        named = dict(self.lstm.named_parameters())
        weights, biases = (tuple(named[f"{name}_{k}_l0"] for k in ("ih", "hh")) for name in ("weight", "bias"))
        return (weights[0], weights[1]), (biases[0], biases[1])

    def forward(self, x: Tensor) -> Tensor:
        """(W, T, F) -> (W, T)"""
        answers: Tensor = self.out(self.lstm(x)[0])[..., 0]
        return answers

    def exported(self) -> DriftNet:
        """As numpy reads it."""
        (weight_ih, weight_hh), (bias, other) = self.parts()
        return DriftNet(
            weight_ih=_rows(weight_ih),
            weight_hh=_rows(weight_hh),
            bias=tuple((bias + other).tolist()),
            out=tuple(self.out.weight[0].tolist()),
            constant=float(self.out.bias.item()),
        )


def _rows(matrix: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in matrix.tolist())


def with_drift_net(
    beliefs: Beliefs,
    histories: Sequence[ObservedPath],
    ledger: LedgerConfig,
    prior: Prior,
    others: Sequence[ObservedPath] = (),
    seed: int = 0,
) -> Beliefs:
    """The beliefs of one asset with a drift net, or the same object where its column is not believed.

    Args:
        beliefs: fitted on the same histories, without a net.
    """
    every = (*histories, *others)
    parts = [active_rows(history, ledger, prior)[0] for history in every]
    series = [net_series(history, beliefs, ledger, prior) for history in every]
    found = cross_fitted(series, seed)
    if found is None:
        return beliefs
    answers = [column[each.weight > 0.0] for column, each in zip(found.columns, series, strict=True)]
    centre, spread = (float(part) for part in (np.concatenate(answers).mean(), np.concatenate(answers).std()))
    if spread <= 1e-9:
        return beliefs
    columns = [(column - centre) / spread for column in answers]
    together = [part._replace(net_column=column) for part, column in zip(parts, columns, strict=True)]
    fit = fit_evidence(thinned(together), prior)
    share = fit.net_coefficient * fit.evidence.deviation / spread
    if share == 0.0:
        return beliefs
    net = scaled(found.net, share, -share * centre)
    return beliefs.model_copy(update={"evidence": fit.evidence, "drift_net": net})


def net_series(history: ObservedPath, beliefs: Beliefs, ledger: LedgerConfig, prior: Prior) -> NetSeries:
    """Scores of every bar in order, and the target where a position is possible."""
    moment = moments(history.rows, 1, shorts=ledger.allow_short)
    (part,) = active_rows(history, ledger, prior)
    base = np.asarray(history.path.base).reshape(len(history.rows), -1)[:, 0]
    graded = (base != 0.0) & (moment.slow[:, 0] > 0.0)
    inputs, gamma = beliefs.scores(history.rows, moment), beliefs.evidence.variance
    root = np.sqrt(relative_variance(inputs[graded, : len(gamma) - 1], gamma))
    target, weight = np.zeros(len(graded)), np.zeros(len(graded))
    target[graded] = part.target(prior, root) * root / beliefs.evidence.deviation
    weight[graded] = 1.0 / root**2
    return NetSeries(inputs, target, weight, history.day)


def cross_fitted(series: Sequence[NetSeries], seed: int = 0) -> CrossFit | None:
    """A net of each half of the days that answers for the other, and one of all rows for as many steps.

    None where the history is too short, or neither half learns anything that holds on its own last quarter.
    """
    middle = int(np.median(np.concatenate([each.day for each in series])))
    with one_thread():
        generator = torch.Generator().manual_seed(seed)
        halves = [windows([_part(each, later=later, day=middle) for each in series]) for later in (False, True)]
        if min(len(half.target) for half in halves) < LEAST_WINDOWS:
            return None
        drawn = torch.randint(
            2**62, (3,), generator=generator
        ).tolist()  # how long one net takes must not move the others
        own = [torch.Generator().manual_seed(one) for one in drawn]
        (early, first), (late, second) = (stopped(half, each) for half, each in zip(halves, own, strict=False))
        if first == second == 0:
            return None
        columns = []
        for each in series:
            of_early, of_late = (DriftRunner(net.exported()).history(each.inputs) for net in (early, late))
            columns.append(np.where(each.day < middle, of_late, of_early))
        whole, _ = trained(windows(series), (first + second + 1) // 2, own[2])
        return CrossFit(whole.exported(), columns)


def _part(series: NetSeries, *, later: bool, day: int) -> NetSeries:
    rows = (series.day >= day) == later
    return NetSeries(*(leaf[rows] for leaf in series))


def windows(series: Sequence[NetSeries]) -> Windows:
    """Stretches in order of time that overlap by WARM bars; what does not fill one at the beginning is left out."""
    found = []
    for each in series:
        for end in range(len(each.day), WINDOW - 1, WARM - WINDOW):
            rows = slice(end - WINDOW, end)
            weight = each.weight[rows].copy()
            weight[:WARM] = 0.0
            found.append((int(each.day[end - 1]), each.inputs[rows], each.target[rows], weight))
    if not found:
        return Windows(torch.zeros(0, WINDOW, 0), torch.zeros(0, WINDOW), torch.zeros(0, WINDOW))
    found.sort(key=lambda window: window[0])
    return Windows(
        *(torch.as_tensor(np.array(leaf), dtype=torch.float32) for leaf in list(zip(*found, strict=True))[1:])
    )


def stopped(given: Windows, generator: torch.Generator) -> tuple[_Net, int]:
    """The net at the step at which it did best on the last windows, and that step; 0 is a net that says nothing."""
    first = len(given.target) - max(1, round(VALIDATION * len(given.target)))
    fitted_on, judged_on = (Windows(*(leaf[part] for leaf in given)) for part in (slice(first), slice(first, None)))
    net, step = trained(fitted_on, STEPS, generator, judged_on)
    return net, step


def trained(given: Windows, steps: int, generator: torch.Generator, judge: Windows | None = None) -> tuple[_Net, int]:
    """A net after `steps` steps of AdamW on the mean squared error, or where it did best on `judge`, and the step."""
    net = _Net(given.inputs.shape[-1], generator)
    optimiser = FlatAdamW(net, LEARNING_RATE, WEIGHT_DECAY, 1.0)
    best, at = (math.inf if judge is None else loss_of(net, judge)), 0
    kept = [parameter.detach().clone() for parameter in net.parameters()]
    order = torch.zeros(0, dtype=torch.long)
    for step in range(1, steps + 1):
        if len(order) < min(BATCH, len(given.target)):
            order = torch.randperm(len(given.target), generator=generator)
        chosen, order = order[:BATCH], order[BATCH:]
        optimiser.minimise(_loss(net, Windows(*(leaf[chosen] for leaf in given))))
        if judge is None or step % LOOK:
            continue
        now = loss_of(net, judge)
        if now < best:
            best, at, kept = now, step, [parameter.detach().clone() for parameter in net.parameters()]
        elif step - at >= PATIENCE * LOOK:
            break
    if judge is not None:
        with torch.no_grad():
            for parameter, value in zip(net.parameters(), kept, strict=True):
                parameter.copy_(value)
    return net, at if judge is not None else steps


def _loss(net: _Net, given: Windows) -> Tensor:
    squared: Tensor = (net(given.inputs) - given.target) ** 2 * given.weight
    return squared.sum() / given.weight.sum().clamp_min(1.0)


@torch.no_grad()
def loss_of(net: _Net, given: Windows) -> float:
    """Weighted mean squared error of the graded bars."""
    return float(_loss(net, given))


def scaled(net: DriftNet, unit: float, constant: float) -> DriftNet:
    """answer * unit + constant."""
    return net.model_copy(
        update={"out": tuple(unit * weight for weight in net.out), "constant": unit * net.constant + constant}
    )
