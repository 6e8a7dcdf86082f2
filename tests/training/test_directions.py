"""Forward selection with shares: against a peer, a closed form and planted columns."""

from itertools import pairwise

import numpy as np
import pytest

from himari_rl.policy.evidence import PLACES
from himari_rl.training.directions import Remains, believed_directions, border_levels, fit_variance


def test_errors_clustered_by_day_are_those_of_a_peer_however_many_directions_were_taken() -> None:
    """Every step from scratch: what is left of the columns and of y by least squares, each regression a peer's."""
    statsmodels = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(5)
    day = rng.permutation(np.repeat(np.arange(60), rng.integers(1, 40, 60)))  # days of any length, in any order
    x = np.column_stack([np.ones(len(day)), rng.standard_normal((len(day), 3))])
    x[:, 2] += 2.0 * x[:, 1]
    y = 0.1 * x[:, 2] + rng.standard_normal(len(day)) + rng.standard_normal(60)[day]
    remains, taken = Remains(x, y, day), list[int]()
    for j in (0, 2, 3):
        before = x[:, taken]
        left_x, left_y = (z - before @ np.linalg.lstsq(before, z, rcond=None)[0] for z in (x, y))
        others = np.setdiff1d(np.arange(4), taken)
        judged = remains.judged(others)
        np.testing.assert_allclose(remains.norm()[others], np.linalg.norm(left_x[:, others], axis=0))
        np.testing.assert_allclose(x @ remains.combination[others].T, left_x[:, others], atol=1e-12)
        for i, k in enumerate(others.tolist()):
            q = left_x[:, k] / np.linalg.norm(left_x[:, k])
            peer = statsmodels.OLS(left_y, q).fit(cov_type="cluster", cov_kwds={"groups": day, "use_correction": False})
            assert judged.estimate[i] == pytest.approx(peer.params[0])
            assert judged.error[i] == pytest.approx(peer.bse[0])
            assert judged.days[i] == pytest.approx(1.0 / (np.bincount(day, q * q) ** 2).sum())
        remains.take(j)
        taken.append(j)
    even = Remains(np.ones((240, 1)), rng.standard_normal(240), np.arange(240) // 24)
    assert even.judged(np.arange(1)).days[0] == pytest.approx(10.0)  # a constant rests on every day alike


def planted(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A constant, a line, a step of that line and noise; returns earn the step; days."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal(n)
    x = np.column_stack([np.ones(n), z, z > 1.6, rng.standard_normal((n, 5))])
    return x, rng.standard_normal(n) + 0.4 * (z > 1.6), np.arange(n) // 24


def test_what_explains_most_comes_first_and_leaves_nothing_to_its_shadow() -> None:
    x, y, day = planted(20_000, 1)
    found, coefficients = believed_directions(x, y / y.std(), day, np.full(8, 4.0), 1e9)
    assert [direction.column for direction in found[:2]] == [0, 2]
    assert coefficients[2] == pytest.approx(0.4, abs=0.1)
    assert abs(coefficients[1]) < 0.03
    fixed = x[:, [0, 1]]  # the negative control: the line alone does explain
    assert np.linalg.lstsq(fixed, y, rcond=None)[0][1] > 0.03


def test_a_column_that_others_say_already_and_one_of_few_days_are_not_believed() -> None:
    x, y, day = planted(20_000, 2)
    twice = np.column_stack([x, 2.0 * x[:, 2] + 1.0, day == 7])
    y = y + 20.0 * (day == 7)
    found, _ = believed_directions(twice, y / y.std(), day, np.full(10, 4.0), 1e9)
    chosen = [direction.column for direction in found]
    assert 9 not in chosen
    assert len({2, 8} & set(chosen)) == 1


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_first_column_is_shrunk_by_its_posterior_and_noise_is_not_believed(sign: float) -> None:
    """The mode of a normal prior times a normal likelihood, found on a grid."""
    rng = np.random.default_rng(3)
    x, day = rng.standard_normal((5000, 8)), np.arange(5000) // 24
    y = rng.standard_normal(5000) + sign * 0.02 * x[:, 0]
    tau = 0.8
    found, coefficients = believed_directions(x, y, day, np.full(8, 25.0), tau)
    assert len(found) == 1
    grid = np.linspace(-5.0, 5.0, 100_001)
    log_posterior = -0.5 * (grid / tau) ** 2 - 0.5 * ((found[0].estimate - grid) / found[0].error) ** 2
    mode = grid[log_posterior.argmax()]
    assert np.sign(mode) == sign
    assert found[0].kept * found[0].estimate == pytest.approx(mode, abs=2e-4)
    assert coefficients[0] == pytest.approx(mode / np.linalg.norm(x[:, 0]), abs=1e-5)


def test_the_variance_of_two_states_is_each_ones_mean_square() -> None:
    rng = np.random.default_rng(4)
    state = rng.integers(0, 2, 4000).astype(float)
    squares = np.where(state > 0, 4.0, 0.5) * rng.standard_normal(4000) ** 2
    squares = np.minimum(squares, 64.0)
    gamma = np.array(fit_variance(np.column_stack([state, 1.0 - state]), squares))  # collinear, as the tiers are
    for value in (0.0, 1.0):
        told = np.exp(gamma @ [1.0, value, 1.0 - value])
        assert told == pytest.approx(squares[state == value].mean(), rel=1e-4)


def test_a_net_comes_last_and_is_not_believed_upside_down() -> None:
    """It explains more than the step here, is judged after it all the same, and is told even with the wrong sign."""
    x, y, day = planted(20_000, 5)
    drift = 0.5 * y + np.random.default_rng(6).standard_normal(len(y))
    right, wrong = (
        believed_directions(np.column_stack([x, sign * drift]), y / y.std(), day, np.full(9, 4.0), 1e9, net=True)
        for sign in (1.0, -1.0)
    )
    assert [direction.column for direction in right[0]] == [direction.column for direction in wrong[0]]
    assert [right[0][i].column for i in (0, 1, -1)] == [0, 2, 8]
    assert right[0][-1].estimate > 2.0 * right[0][1].estimate
    assert right[0][-1].t == pytest.approx(-wrong[0][-1].t)
    assert right[1][8] > 0.3
    assert (wrong[0][-1].kept, wrong[1][8]) == (0.0, 0.0)
    _, as_any_other = believed_directions(
        np.column_stack([x, -drift]), y / y.std(), day, np.full(9, 4.0), 1e9
    )  # the negative control
    assert as_any_other[8] < -0.3


def test_how_sure_a_border_is_follows_from_the_likelihood_of_every_place() -> None:
    """A twin: weighted least squares with a step at each place, and the posterior of a uniform prior."""
    rng = np.random.default_rng(8)
    z, one = rng.standard_normal((3000, 2)), np.exp(0.3 * rng.standard_normal(3000))
    y = rng.standard_normal(3000) + one * (-z[:, 1] > 1.4)
    levels = border_levels(z, y, one)
    assert levels.shape == (4, len(PLACES))
    for row, (sign, column) in zip(levels, [(1, 0), (1, 1), (-1, 0), (-1, 1)], strict=True):
        log_likelihood = []
        for left, right in pairwise(PLACES):
            x = np.column_stack([one, one * (sign * z[:, column] > 0.5 * (left + right))])
            log_likelihood.append(-0.5 * np.linalg.lstsq(x, y, rcond=None)[1][0])
        chance = np.exp(np.array(log_likelihood) - max(log_likelihood))
        np.testing.assert_allclose(row, np.r_[0.0, np.cumsum(chance / chance.sum())], atol=1e-8)
    assert abs(np.interp(0.5, levels[3], PLACES) - 1.4) < 0.15  # the border that is there
    low, high = np.interp([0.1, 0.9], levels[0], PLACES)
    assert high - low > 0.3  # where none is, no place is sure


def test_a_place_with_hardly_a_bar_beyond_it_says_nothing() -> None:
    y = np.zeros(2000)
    y[0] = 1000.0  # one bar, alone beyond every place
    z = np.zeros((2000, 1))
    z[0] = 5.0
    steps = np.diff(border_levels(z, y, np.ones(2000)))
    np.testing.assert_allclose(steps, 1.0 / steps.shape[1])
