"""Settings of the paper's algorithm (Cho & Tran, arXiv 2601.21391) and its table of tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from stable_baselines3.common.type_aliases import Schedule

from irwrappers.validation import check_choice, check_range
from sb3_ext.irpo.gradient import Surrogate
from sb3_ext.irpo.gradient_weights import BLENDS, Blend


@dataclass(frozen=True)
class PaperSettings:
    """Settings of ``IRPO(paper=…)`` beside IRPO's own arguments. Defaults are the paper's where it gives one.

    Attributes:
        batch_size: B, transitions of each collection of each policy: each of its n environments runs whole episodes from
            reset until it has ⌈B / n⌉ steps. Transitions beyond B are used too.
        n_exploratory_updates: N, intrinsic updates of each exploratory policy. An iteration collects 1 + K·N batches. The
            authors' program counts the extrinsic step in its N = 5 and so makes 4.
        exploratory_learning_rate: α of those updates.
        exploratory_optimizer: ``"sgd"``, the paper's, or ``"adam"``, whose moments begin at zero in every iteration.
        exploratory_ent_coef: coefficient of the entropy in the exploratory updates.
        pull_back: pull the extrinsic gradients back through the exploratory updates, (∇_θ θ̃_k)ᵀ g; False: use g as it is, the
            first-order form.
        bootstrap_truncated: bootstrap episodes that a time limit cut; the paper counts them as terminal.
        n_critic_minibatches: disjoint minibatches of the one pass over each batch that each critic makes.
        surrogate: ``"ratio"``, whose Hessian is that of J up to the terms between different steps of an episode, or the
            authors' ``"log_prob"``, whose lacks those within a step too.
        weighting: of the K gradients. ``"softmax"``: ω = softmax(J_R / τ) of this iteration's mean discounted returns (the
            paper); ``"ema"``: the authors' program, softmax then arg-max of an exponential average of step rewards with τ
            falling 1 → 0 over the first ``temperature_decay`` of training after the fit; ``"argmax"``; ``"uniform"``.
        temperature: τ of ``"softmax"``, a number or a schedule of the remaining progress.
        temperature_decay: share of training over which the temperature of ``"ema"`` falls.
        ema_decay: decay of the average of ``"ema"`` in a batch.
        base_update: ``"trust_region"`` or ``"sgd"``.
        base_learning_rate: learning rate of ``base_update="sgd"``.
        target_kl: δ of the trust region in nats, a number or a schedule of the remaining progress.
        cg_max_steps: conjugate-gradient steps of the trust region.
        cg_damping: number added to the diagonal of its Fisher matrix.
        line_search_shrinking_factor: factor by which its line search shrinks the step.
        line_search_max_iter: largest number of steps of its line search.
        deploy: policy of ``predict``: ``"best_exploratory"``, the exploratory policy with the best return, one step along its
            extrinsic gradient further (with a ``blend`` the base policy, where that did better); or ``"base"``.
        fit_fraction: largest share of ``total_timesteps`` that fitting the intrinsic reward takes (ALLO's random walks).
        updates_per_batch: intrinsic updates made from each batch of an exploratory policy; those after its first weigh it by
            π/π_old (``surrogate="ratio"``). An iteration then collects 1 + K·⌈N / updates_per_batch⌉ batches. Paper: 1.
        carry_over: while no policy receives a reward, the exploratory policies begin at θ + carry_over · (their last weights
            − θ) in place of θ, which takes one more batch of each. Where their returns are above 0 and the base policy's are
            not, θ becomes the one with the highest. Paper: 0.
        blend: rule by which the true gradient is blended into IRPO's: ``None`` (paper), ``"abrupt"``, ``"exponential"``,
            ``"agreement"`` or ``"switch"`` (``sb3_ext.irpo.gradient_weights``).
        blend_start: share of training at which ``"abrupt"`` changes and ``"exponential"`` is half-way.
    """

    batch_size: int = 8192
    n_exploratory_updates: int = 5
    exploratory_learning_rate: float = 0.01
    exploratory_optimizer: Literal["sgd", "adam"] = "sgd"
    exploratory_ent_coef: float = 0.0
    pull_back: bool = True
    bootstrap_truncated: bool = False
    n_critic_minibatches: int = 5
    surrogate: Surrogate = "ratio"
    weighting: Literal["softmax", "ema", "argmax", "uniform"] = "softmax"
    temperature: float | Schedule = 0.1
    temperature_decay: float = 0.1
    ema_decay: float = 0.9995
    base_update: Literal["trust_region", "sgd"] = "trust_region"
    base_learning_rate: float = 1e-3
    target_kl: float | Schedule = 1e-3
    cg_max_steps: int = 10
    cg_damping: float = 0.1
    line_search_shrinking_factor: float = 0.7
    line_search_max_iter: int = 15
    deploy: Literal["best_exploratory", "base"] = "best_exploratory"
    fit_fraction: float = 0.1
    updates_per_batch: int = 1
    carry_over: float = 0.0
    blend: Blend | None = None
    blend_start: float = 0.5

    def __post_init__(self) -> None:
        """Raise ValueError for the first setting that is out of range."""
        for name in ("batch_size", "cg_max_steps", "line_search_max_iter", "n_exploratory_updates", "updates_per_batch"):
            check_range(name, getattr(self, name), 1, integer=True)
        check_range("n_critic_minibatches", self.n_critic_minibatches, 1, self.batch_size, integer=True)
        for name in ("exploratory_learning_rate", "base_learning_rate", "target_kl", "temperature"):
            check_range(name, getattr(self, name), 0, open_low=True)
        for name in ("temperature_decay", "ema_decay", "line_search_shrinking_factor", "fit_fraction", "blend_start"):
            check_range(name, getattr(self, name), 0, 1, open_low=True)
        check_range("cg_damping", self.cg_damping, 0)
        check_range("exploratory_ent_coef", self.exploratory_ent_coef, 0)
        check_range("carry_over", self.carry_over, 0, 1)
        if self.updates_per_batch > 1 and self.surrogate != "ratio":
            raise ValueError(
                f"updates_per_batch={self.updates_per_batch} weighs a batch by π/π_old, which surrogate={self.surrogate!r} "
                'does not contain; use surrogate="ratio".'
            )
        if self.blend is not None:
            check_choice("blend", self.blend, BLENDS)
        check_choice("exploratory_optimizer", self.exploratory_optimizer, ("sgd", "adam"))
        check_choice("surrogate", self.surrogate, ("ratio", "log_prob"))
        check_choice("weighting", self.weighting, ("softmax", "ema", "argmax", "uniform"))
        check_choice("base_update", self.base_update, ("trust_region", "sgd"))
        check_choice("deploy", self.deploy, ("best_exploratory", "base"))


# Environment, K, γ, B, δ, discount of ALLO's pairs (the paper's table of settings).
_TASKS: tuple[tuple[tuple[str, ...], int, float, int, float, float], ...] = (
    (("FourRooms0", "FourRooms1"), 4, 0.99, 4096, 1e-3, 0.9),
    (("Maze0", "Maze1"), 6, 0.99, 8192, 1e-3, 0.9),
    (("PointMaze0", "PointMaze1"), 4, 0.999, 16384, 1e-3, 0.99),
    (("FetchReach",), 4, 0.9, 4096, 1e-3, 0.99),
    (("FetchPush",), 4, 0.9995, 8192, 1e-2, 0.99),
    (tuple(f"AntMaze{i}" for i in range(6)), 3, 0.9999, 16384, 1e-3, 0.995),
)
PAPER_TASKS = {f"sparse/{name}-v0": rest for names, *rest in _TASKS for name in names}


def paper_settings(env_id: str) -> dict[str, Any]:
    """Return the arguments with which IRPO is the paper's algorithm, at the paper's settings for ``env_id``.

    One setting differs: ALLO's network has 3 × 128 units and 3000 steps, not 4 × 512 and 50 000, and finds the same
    eigenfunctions on the grids (tested against the exact ones).

    Args:
        env_id: one of the paper's tasks, ``sparse/FourRooms0-v0`` … ``sparse/AntMaze5-v0``.

    Raises:
        ValueError: for another id.
    """
    if env_id not in PAPER_TASKS:
        raise ValueError(f"The paper has no settings for {env_id!r}; it has them for {', '.join(PAPER_TASKS)}.")
    n_rewards, gamma, batch_size, target_kl, discount = PAPER_TASKS[env_id]
    return dict(
        learning_rate=5e-5,
        gamma=gamma,
        gae_lambda=0.95,
        ent_coef=1e-3,
        max_grad_norm=0.5,
        intrinsic_gamma=1.0,
        intrinsic_reward="allo",
        intrinsic_reward_kwargs=dict(n_rewards=n_rewards, discount=discount, n_walks=2000),
        paper=dict(batch_size=batch_size, n_exploratory_updates=5, exploratory_learning_rate=0.01, target_kl=target_kl),
    )
