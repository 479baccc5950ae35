"""Walks the ant to the goal by planning in the simulator: what shows that AntMaze's goals can be reached."""

import mujoco
import numpy as np
from mujoco.rollout import Rollout

PHYSICS = mujoco.mjtState.mjSTATE_FULLPHYSICS
HORIZON, KNOTS, EXECUTED = 24, 6, 8  # steps looked ahead, joints' torques set at so many of them, steps then played
CANDIDATES, ELITE, ROUNDS = 96, 8, 2


class AntPlanner:
    """Cross-entropy search over torques that are linear between knots, begun anew from where the ant really is.

    Args:
        env: the bare ``AntMaze``; it is only read.
        seed: of the search.
    """

    def __init__(self, env, seed=0):
        self.body = env.body
        self.rng = np.random.default_rng(seed)
        self.datas = [mujoco.MjData(self.body.model) for _ in range(2)]
        self.pool = Rollout(nthread=2)
        self.mean = np.zeros((KNOTS, 8))
        times = np.linspace(0, KNOTS - 1, HORIZON)
        self.before = np.minimum(times.astype(int), KNOTS - 2)
        self.share = (times - self.before)[:, None]

    def actions(self, target):
        """The next steps' actions, ``[EXECUTED, 8]``, on the way to ``target`` (x, y)."""
        mean, spread = self.mean, 0.6
        for _ in range(ROUNDS):
            knots = np.clip(mean + spread * self.rng.standard_normal((CANDIDATES, KNOTS, 8)), -1, 1)
            knots[0] = mean
            order = np.argsort(self.costs(self.torques(knots), target))
            mean, spread = knots[order[:ELITE]].mean(0), 0.6 * spread
        best = knots[order[0]]
        played = EXECUTED * (KNOTS - 1) / HORIZON
        self.mean = best[np.minimum((np.arange(KNOTS) + played).astype(int), KNOTS - 1)]
        return self.torques(best[None])[0, :EXECUTED].astype(np.float32)

    def torques(self, knots):
        return knots[:, self.before] * (1 - self.share) + knots[:, self.before + 1] * self.share

    def costs(self, torques, target):
        model, every = self.body.model, self.body.frame_skip
        state = np.zeros(mujoco.mj_stateSize(model, PHYSICS))
        mujoco.mj_getState(model, self.body.data, state, PHYSICS)
        controls = np.repeat(torques, every, axis=1)
        states, _ = self.pool.rollout(model, self.datas, np.tile(state, (CANDIDATES, 1)), controls)
        states = states[:, every - 1 :: every]  # time, x, y, z, quaternion, …
        distance = np.linalg.norm(states[..., 1:3] - target, axis=-1)
        falls = ((states[..., 3] < 0.42) | (states[..., 3] > 0.93)).any(1)
        upright = (1 - 2 * (states[..., 5] ** 2 + states[..., 6] ** 2)).min(1)
        reached = (distance < 0.4).any(1)
        return distance[:, -1] + 0.5 * distance.mean(1) + 5.0 * falls - 5.0 * reached + np.maximum(0.7 - upright, 0)


def walk(env, path, seed=0):
    """Play ``env`` (from ``gym.make``, just reset) along ``path``, points (x, y); returns the return and the last info."""
    planner, path, total = AntPlanner(env.unwrapped, seed), list(path), 0.0
    while True:
        place = env.unwrapped.body.data.qpos[:2]
        while len(path) > 1 and np.linalg.norm(path[0] - place) < 1.0:
            path.pop(0)
        for action in planner.actions(path[0]):
            _, reward, terminated, truncated, info = env.step(action)
            total += reward
            if terminated or truncated:
                return total, info
