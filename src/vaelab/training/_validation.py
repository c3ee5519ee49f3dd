"""The loss of images that are not trained on, in one compiled call."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vaelab.training._objective import means
from vaelab.training._program import (
    VALIDATION,
    Knobs,
    Program,
    key_for,
)

BLOCK = 4096
"""How many images go through the model at a time."""


def validate(
    program: Program, leaves: list[jax.Array], data: Any, step: jax.Array, knobs: Knobs
) -> dict[str, jax.Array]:
    """Returns what the history records, averaged over images not trained on."""
    objective = program.objective
    arguments = objective.arguments(step, knobs.loss)

    def sums(number: jax.Array | int, block: Any) -> dict[str, jax.Array]:
        model = program.objects(leaves)[0]  # of its own here, for its random streams
        model.eval()
        _rewind(model, number)
        if objective.takes_key:
            arguments["key"] = key_for(knobs, VALIDATION, number)
        size = len(jax.tree.leaves(block)[0])
        found = means(objective.loss_fn(model, block, **arguments))
        return {name: size * mean for name, mean in found.recorded.items()}

    n = len(jax.tree.leaves(data)[0])
    size = min(n, BLOCK)
    full = n // size
    blocks = jax.tree.map(
        lambda x: x[: full * size].reshape(full, size, *x.shape[1:]), data
    )
    totals = jax.lax.map(lambda block: sums(*block), (jnp.arange(full), blocks))
    total = {name: values.sum() for name, values in totals.items()}
    if n % size:
        rest = sums(full, jax.tree.map(lambda x: x[full * size :], data))
        total = {name: total[name] + rest[name] for name in total}
    return {name: value / n for name, value in total.items()}


def _rewind(model: Any, number: jax.Array | int) -> None:
    """Lets a model draw the same noise every time, and another for each number."""

    def fold(keys: jax.Array) -> jax.Array:
        each = jax.vmap(lambda key: jax.random.fold_in(key, number))
        return each(keys.reshape(-1)).reshape(keys.shape)

    keys = nnx.state(model, nnx.RngKey)
    counts = nnx.state(model, nnx.RngCount)
    nnx.update(model, jax.tree.map(fold, keys), jax.tree.map(jnp.zeros_like, counts))
