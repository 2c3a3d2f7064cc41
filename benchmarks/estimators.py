"""Comparison of estimators of the meta-gradient in reinforcement learning.

Estimates the meta-gradient of a random decision process with each surrogate loss, and draws the
error over the number of trajectories.

    python -m benchmarks.estimators       # a minute on two cores

The meta-gradient  d V(theta + rate grad V(theta)) / d theta  of a table of logits is known exactly.
An estimate takes the second derivative from a surrogate of N trajectories and all other terms
exactly, so that its error is that of the surrogate. Target: DiCE and TayPO-2 converge to the
exact meta-gradient; the likelihood ratio does not, because it ignores that states depend on the
policy; and the second derivative of the score function is zero here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from benchmarks.harness.bounds import check
from benchmarks.harness.command_line import launch
from benchmarks.harness.display import track
from benchmarks.harness.files import save_figure, write_json
from benchmarks.harness.folders import script_folder
from benchmarks.harness.summary import provenance
from benchmarks.meta_rl import SURROGATES
from maml.rl.environment import rollout
from maml.rl.policies import table_policy
from maml.types import RandomKey
from tasks.rl import tabular

STATES, ACTIONS, HORIZON, DISCOUNT, RATE = 10, 5, 10, 0.9, 2.0
MEASURES = ("error", "cosine")


@dataclass(frozen=True)
class Estimators:
    """Options of the comparison."""

    out: Path | None = None
    """Folder of the figure and of `estimators.json`; None is a new one under results/runs."""
    largest: int = 14
    """Logarithm to base 2 of the largest number of trajectories; numbers are 16, 64, ..."""
    repeats: int = 20
    """Number of estimates for each number of trajectories; median and quartiles are drawn."""

    def __post_init__(self) -> None:
        check(self)


def problem(key: RandomKey) -> tuple[Callable[[str, int, RandomKey], Array], Array]:
    """A random process: `estimate(surrogate, trajectories, key)`, and the exact meta-gradient."""
    mdp_key, policy_key = jax.random.split(key)
    mdp = tabular.draw_mdp(mdp_key, STATES, ACTIONS)
    theta = jax.random.normal(policy_key, (STATES, ACTIONS))
    environment, policy = tabular.tabular_mdp(STATES, ACTIONS), table_policy(ACTIONS)

    def to_go(theta: Array, steps: int) -> Array:
        return tabular.policy_values(mdp, jax.nn.softmax(theta), steps, discount=DISCOUNT)

    gradient = jax.grad(lambda theta: to_go(theta, HORIZON)[0])
    outer = gradient(theta + RATE * gradient(theta))
    exact = outer + RATE * jax.jvp(gradient, (theta,), (outer,))[1]
    baseline = jnp.stack([to_go(theta, HORIZON - time) for time in range(HORIZON)])
    weights = DISCOUNT ** jnp.arange(HORIZON)

    @partial(jax.jit, static_argnums=(0, 1))
    def estimate(surrogate: str, trajectories: int, key: RandomKey) -> Array:
        counts = {"horizon": HORIZON, "trajectories": trajectories}
        batch = rollout(environment, policy, theta, mdp, key, **counts)
        expected = baseline[jnp.arange(HORIZON), batch.observation.argmax(axis=-1)]
        returns = jnp.cumsum((weights * batch.reward)[:, ::-1], axis=1)[:, ::-1]
        advantage = returns - weights * expected

        def mean(theta: Array) -> Array:
            log_prob = jax.vmap(jax.vmap(policy.family.log_prob))(
                jax.vmap(policy.apply_sequence, (None, 0))(theta, batch.observation), batch.action
            )
            return jax.vmap(SURROGATES[surrogate])(log_prob - batch.log_prob, advantage).mean()

        return outer + RATE * jax.jvp(jax.grad(mean), (theta,), (outer,))[1]

    return estimate, exact


def measure(config: Estimators) -> dict[str, Any]:
    """Quartiles of the relative error and the cosine, by surrogate and number of trajectories."""
    estimate, exact = problem(jax.random.key(0))
    sizes = [2**n for n in range(4, config.largest + 1, 2)]
    results: dict[str, Any] = {"trajectories": sizes}
    keys, length = jax.random.split(jax.random.key(1), config.repeats), jnp.linalg.norm(exact)

    def quartiles(name: str, size: int) -> Float[np.ndarray, "measure quartile"]:
        estimates = jnp.stack([estimate(name, size, key) for key in keys])
        error = jnp.linalg.norm(estimates - exact, axis=(1, 2)) / length
        product = jnp.einsum("nij,ij->n", estimates, exact)
        cosine = product / jnp.linalg.norm(estimates, axis=(1, 2)) / length
        return np.quantile([error, cosine], [0.25, 0.5, 0.75], axis=1).T

    for name in track([*SURROGATES], "surrogates"):
        columns = np.stack([quartiles(name, size) for size in sizes], axis=1).tolist()
        results[name] = dict(zip(MEASURES, columns, strict=True))
    return results


def draw(out: Path, results: dict[str, Any]) -> Figure:
    """Draws both measures over the number of trajectories; saved as `estimators.png`."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, measure in zip(figure.subplots(1, 2), MEASURES, strict=True):
        for name in SURROGATES:
            low, middle, high = np.array(results[name][measure]).T
            # At the policy that acted, TayPO-2 and DiCE are equal.
            style = {"label": name.replace("_", " "), "linestyle": "--" if name == "dice" else "-"}
            (line,) = axes.plot(results["trajectories"], middle, **style)
            axes.fill_between(results["trajectories"], low, high, alpha=0.2, color=line.get_color())
        axes.set(xscale="log", xlabel="trajectories", ylabel=measure)
        axes.grid(alpha=0.3)
    figure.axes[0].set(yscale="log", ylabel="relative error of the meta-gradient")
    figure.axes[1].set_ylabel("cosine with the exact meta-gradient")
    figure.axes[1].legend()
    return save_figure(figure, out / "estimators.png")


def main(config: Estimators) -> dict[str, Any]:
    """Measures, writes `estimators.json` and draws the figure."""
    out = script_folder("estimators", config)
    results = measure(config)
    write_json(out / "estimators.json", results | provenance())
    draw(out, results)
    print(f"figure: {out / 'estimators.png'}")
    return results


if __name__ == "__main__":
    launch(main, Estimators, __doc__)
