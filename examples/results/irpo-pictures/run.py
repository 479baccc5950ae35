"""Pictures of what IRPO does while it learns, with the settings of ``sb3_ext/zoo/hyperparams/irpo_paper.yml``.

    python examples/results/irpo-pictures/run.py                            # both mazes, seed 0
    python examples/results/irpo-pictures/run.py --env sparse/Maze1-v0

Writes beside itself, or to ``--out``: ``gradient_norms.csv`` and ``.png`` of all environments, and of each the intrinsic
reward of every channel and the visits of the base policy and of every exploratory policy at three moments of training.
"""

import argparse
import tempfile
from pathlib import Path

import gymnasium as gym
import pandas as pd
import yaml
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

import envs  # noqa: F401 (registers sparse/…)
import sb3_ext.zoo
from irwrappers.plot import plot_reward, plot_visits
from sb3_ext.common.vec_env import make_vec_env
from sb3_ext.zoo.benchmark.plots import plot_gradient_norms
from sb3_ext.zoo.paper_irpo import PaperIRPO

SETTINGS = Path(sb3_ext.zoo.__file__).parent / "hyperparams" / "irpo_paper.yml"
NORMS = {"time/total_timesteps": "timesteps"} | {
    name: name for name in ("train/direct_gradient_norm", "train/irpo_gradient_norm")
}


class Visits(BaseCallback):
    """Keeps what the policies saw in the first iteration, in the first past a share of training, and in the last."""

    def __init__(self, total_timesteps: int, early: float = 0.2) -> None:
        super().__init__()
        self.early = early * total_timesteps
        self.kept: list[tuple[int, dict]] = []

    def _on_rollout_start(self) -> None:
        self.begun = self.num_timesteps

    def _on_rollout_end(self) -> None:
        # IRPO's locals here: the base policy's rollout, then one of all exploratory policies after each of their updates.
        base, ended = self.locals["rollouts"][0], self.locals["rollouts"][-1]
        seen = {"base policy": base.raw_observations[base.valid]}
        n_envs = base.valid.shape[1] // self.model.n_exploratory
        for k, name in enumerate(self.model.intrinsic_reward.channel_names):
            own = slice(k * n_envs, (k + 1) * n_envs)
            seen[name] = ended.raw_observations[:, own][ended.valid[:, own]]
        self.last = self.begun, seen
        if len(self.kept) < 2 and self.begun >= len(self.kept) * self.early:
            self.kept.append(self.last)

    def _on_step(self) -> bool:
        return True

    def panels(self) -> dict:
        return {
            f"{name}\n{steps / 1e6:.1f} M steps": observations.numpy()
            for steps, seen in [*self.kept, self.last]
            for name, observations in seen.items()
        }


def train(env_id: str, timesteps: int, seed: int, out: Path) -> pd.DataFrame:
    """Train, plot rewards and visits, and return the gradient norms of every iteration."""
    settings = yaml.safe_load(SETTINGS.read_text())[env_id]
    del settings["n_timesteps"]
    env = make_vec_env(env_id, n_envs=settings.pop("n_envs"), seed=seed)
    model = PaperIRPO(env=env, seed=seed, device="cpu", **settings)
    visits = Visits(timesteps)
    with tempfile.TemporaryDirectory() as folder:
        model.set_logger(configure(folder, ["csv"]))
        model.learn(timesteps, callback=visits, progress_bar=True)
        model.logger.close()
        progress = pd.read_csv(Path(folder) / "progress.csv")
    name, single = env_id.replace("/", "-"), gym.make(env_id)
    title = f"{env_id}: intrinsic return of each channel on the way from the start"
    plot_reward(model.intrinsic_reward, single, title=title).savefig(out / f"{name}-rewards.png", dpi=100)
    plot_visits(
        visits.panels(),
        env=single,
        bins=40,
        columns=1 + model.n_exploratory,
        title=f"{env_id}: visits of the base policy and of each exploratory policy after its intrinsic updates",
        path=out / f"{name}-visits.png",
    )
    return progress[list(NORMS)].rename(columns=NORMS).assign(env=env_id, algo="irpo", seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", action="append", help="repeatable; one of irpo_paper.yml whose observations hold positions")
    parser.add_argument("--timesteps", type=int, default=5_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    chosen = given.env or ["sparse/Maze1-v0", "sparse/PointMaze0-v0"]
    norms = pd.concat([train(env_id, given.timesteps, given.seed, given.out) for env_id in chosen], ignore_index=True)
    norms.to_csv(given.out / "gradient_norms.csv", index=False)
    plot_gradient_norms(given.out, norms)


if __name__ == "__main__":
    main()
