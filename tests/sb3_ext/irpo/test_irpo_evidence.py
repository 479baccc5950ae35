"""When the base policy moves, follows or goes on alone, and who acts next: by hand-worked cases."""

import numpy as np
import pytest

from sb3_ext.irpo.evidence import Schedule, discount, exceeds, varies, verdict

ZEROS, ONES = [0.0] * 8, [1.0] * 8


@pytest.mark.parametrize(
    ("returns", "expected"), [([], False), ([1.0], False), (ZEROS, False), ([-200.0] * 5, False), ([0.0, 1.0], True)]
)
def test_returns_vary_or_do_not(returns, expected):
    assert varies(returns) is expected


def test_a_difference_counts_by_its_standard_error():
    # Three of eight: mean 3/8, sample variance 15/56, error sqrt(15/448) = 0.183, so 2.05 errors above eight zeros.
    three = [1.0] * 3 + [0.0] * 5
    assert exceeds(three, ZEROS, 2.04) and not exceeds(three, ZEROS, 2.06)
    assert not exceeds(three, ZEROS, 1.0, margin=0.4)
    assert not exceeds(ZEROS, three, 0.1) and not exceeds(ONES, ONES, 0)
    assert not exceeds(ONES[:3], ZEROS, 2.0)  # three episodes say nothing


def test_the_sign_and_size_of_rewards_do_not_matter():
    rng = np.random.default_rng(0)
    better, worse = rng.normal(1, 1, 40), rng.normal(0, 1, 40)
    for scale, shift in ((1, 0), (1000, -5000), (1e-4, -1)):
        assert exceeds(scale * better + shift, scale * worse + shift, 2.0)
        assert not exceeds(scale * worse + shift, scale * better + shift, 2.0)


def test_move_follow_or_alone():
    assert verdict(ZEROS, ONES) == "move"
    assert verdict(ZEROS, [0.0] * 7 + [1.0]) == "follow"  # one lucky episode
    assert verdict(ZEROS, ZEROS) == "alone"
    assert verdict([0.0] * 7 + [1.0], [0.0] * 7 + [1.0]) == "alone"  # the base policy has its own gradient
    assert verdict([-200.0] * 8, [-200.0] * 6 + [-150.0] * 2) == "follow"
    assert verdict(ZEROS, [0.0] * 7 + [-1.0]) == "alone"  # a fall is no reason


def test_the_end_of_an_episode_counts_whatever_the_discount():
    assert discount(0.99, 999) == 1 - 1 / 999  # e**-1 of its last reward is left
    assert discount(0.99, 20) == 0.99 and discount(1.0, 999) == 1.0
    # MountainCarContinuous: costs of 10 in an episode, which ends with 100 after 600 steps, against doing nothing.
    steps = np.arange(600)
    costs = -10 / 600 * np.ones(600)
    for gamma, better in ((0.99, False), (discount(0.99, 999), True)):
        assert (float(np.sum(gamma**steps * costs) + 100 * gamma**600) > 0) is better


def test_exploratory_policies_take_turns_while_the_base_policy_sees_no_difference():
    schedule, actors = Schedule(n_exploratory=2, base_every=4), []
    for _ in range(20):
        actor = schedule.next_actor()
        actors.append(actor)
        if actor is None:
            schedule.after_base(ZEROS, 1, informative=False)
        else:
            schedule.after_exploration(ZEROS, moved=False, informative=False)
    assert actors == [None, 0, 1, 0, 1, 0, 1, 0, 1, None, 0, 1, 0, 1, 0, 1, 0, 1, None, 0]


def run_of(schedule, returns):
    """The base policy's turns until an exploratory policy acts."""
    turns = 0
    while schedule.next_actor() is None:
        schedule.after_base(returns, 1, informative=True)
        turns += 1
    schedule.after_exploration(ZEROS, moved=False, informative=True)
    return turns


def test_the_run_alone_doubles_while_it_improves_and_halves_where_it_stagnates():
    schedule = Schedule(n_exploratory=1, longest_run=8, shortest_run=1)
    rng = np.random.default_rng(0)
    improving = [run_of(schedule, level + rng.normal(0, 0.01, 20)) for level in range(6)]
    assert improving == [1, 1, 2, 4, 8, 8]
    stagnating = [run_of(schedule, 5 + np.zeros(20) + 0.01 * (np.arange(20) % 2)) for _ in range(5)]
    assert stagnating == [8, 4, 2, 1, 1]


def test_a_gain_that_is_a_trifle_of_all_returns_seen_is_none():
    schedule = Schedule(n_exploratory=1, longest_run=8, shortest_run=1)
    schedule.after_base([-50.0, 0.0], 1, informative=True)
    schedule.after_exploration([-50.0, 90.0], moved=False, informative=True)
    costs = -np.array([0.4, 0.2, 0.1, 0.05])[:, None] + 1e-4 * np.arange(20)
    assert [run_of(schedule, cost) for cost in costs for _ in range(8)][-1] == 1


def test_after_a_move_it_begins_anew():
    schedule = Schedule(n_exploratory=2, run=8, shortest_run=1, left=0, previous=[1.0] * 5)
    schedule.after_exploration(ONES, moved=True, informative=True)
    assert (schedule.run, schedule.left, schedule.previous, schedule.next_actor()) == (1, 1, [], None)


def test_what_is_left_to_gain():
    schedule = Schedule(1)
    assert schedule.left_to_gain(ONES) == (np.inf, np.inf)  # nothing is known yet
    schedule.after_base([0.0, 0.0, 0.2, 0.2], 1, True)  # mean 0.1
    schedule.after_exploration([1.1, -5.0], False, True)  # what exploring costs does not count
    assert schedule.left_to_gain([0.9, 1.0]) == pytest.approx((0.15, 1.0))
    assert schedule.left_to_gain([]) == (np.inf, np.inf)
