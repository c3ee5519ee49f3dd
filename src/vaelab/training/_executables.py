"""The compiled functions of a run: any stretch of its steps in one call.

The loop has bounds that are arguments, so one executable takes one step or a hundred
epochs, and takes them bit for bit alike however the run is cut into calls. That makes
everything around it simple: a display or Ctrl-C cut where they like, a resumed run goes
on where another one stopped, and a NaN is traced to its step by running shorter and
shorter stretches again.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaelab.training._program import (
    AXES_OF_KNOBS,
    Bounds,
    Knobs,
    Order,
    Program,
    Stretch,
    Sum,
)
from vaelab.training._validation import validate


class Executables:
    """The functions of one program, each compiled when it is first called.

    They belong to this object alone, and leave the memory with it.

    Attributes:
        update: see below, inlined where it is called.
        run: `steps`, which takes its first argument for good.
        run_many: the same for models stacked on top of each other. They share the
            order of the images, so a layer's first product is one for all.
        validate: of `_validation`.
        validate_many: the same for stacked models.
        batch_of_step: see below.
    """

    def __init__(self, program: Program) -> None:
        self.update = jax.jit(partial(update, program), inline=True)
        take = partial(steps, program, self.update)
        check = partial(validate, program)
        self.run = jax.jit(take, donate_argnums=0)
        self.run_many = jax.jit(
            jax.vmap(
                take,
                in_axes=(0, 0, None, None, None, AXES_OF_KNOBS),
                out_axes=Stretch._make((0, 0, 0, None)),
            ),
            donate_argnums=0,
        )
        self.validate = jax.jit(check)
        self.validate_many = jax.jit(
            jax.vmap(check, in_axes=(0, None, None, AXES_OF_KNOBS))
        )
        self.batch_of_step = jax.jit(partial(batch_of_step, program))


@lru_cache(maxsize=16)
def executables_of(program: Program) -> Executables:
    """Returns the functions of a program, the same ones for an equal program."""
    return Executables(program)


def recorded_names(
    program: Program, leaves: list[jax.Array], data: Any, knobs: Knobs
) -> list[str]:
    """Names what the steps will record. Nothing is compiled, the step is traced."""
    update = executables_of(program).update

    def first_step(leaves: list[jax.Array], data: Any, step: jax.Array) -> Any:
        batch = program.batch(data, jnp.arange(program.num_images), step)
        return update(leaves, batch, step, knobs)[1]

    return sorted(jax.eval_shape(first_step, leaves, data, np.int32(0)))


@jax.jit
def copied(leaves: list[jax.Array]) -> list[jax.Array]:
    """Copies arrays, since `run` takes its own for good."""
    return [jnp.copy(leaf) for leaf in leaves]


def batch_of_step(program: Program, data: Any, local: jax.Array, knobs: Knobs) -> Any:
    """Returns the images of a step, counted from the start of these images."""
    order = program.order(local // program.steps_per_epoch, knobs)
    return program.batch(data, order.images, local)


def update(
    program: Program,
    leaves: list[jax.Array],
    batch: Any,
    step: jax.Array,
    knobs: Knobs,
) -> tuple[list[jax.Array], dict[str, jax.Array]]:
    """Takes one step; returns the state after it, and what the history records."""
    model, optimizer = program.objects(leaves)
    values = program.step(model, optimizer, batch, step, knobs)
    return program.taken_apart(model, optimizer), values


def steps(
    program: Program,
    update: Callable[..., Any],
    leaves: list[jax.Array],
    sums: dict[str, Sum],
    data: Any,
    order: Order,
    bounds: Bounds,
    knobs: Knobs,
) -> Stretch:
    """Takes the steps from `bounds.first` up to `bounds.stop`.

    Args:
        program: what is compiled.
        update: takes one step, see above.
        leaves: the state before the first step.
        sums: what the steps before it, in the same epoch, recorded at row 0.
        data: the images on the device, a tree of arrays `(num_images, ...)`.
        order: of the first epoch, if it is known.
        bounds: which steps.
        knobs: numbers for all of the steps.
    """
    per_epoch = program.steps_per_epoch
    first, stop = bounds.first - bounds.origin, bounds.stop - bounds.origin
    first_epoch = first // per_epoch

    def epoch(number: jax.Array, carry: Any) -> Any:
        leaves, sums, finite, order = carry
        order = jax.lax.cond(
            number == order.epoch,
            lambda: order,
            lambda: program.order(number, knobs),
        )
        row = number - first_epoch

        def step(local: jax.Array, carry: Any) -> Any:
            leaves, sums, finite = carry
            batch = program.batch(data, order.images, local)
            leaves, values = update(leaves, batch, bounds.origin + local, knobs)
            sums = {name: sums[name].plus(value) for name, value in values.items()}
            return leaves, sums, finite & jnp.isfinite(values["loss"])

        begin = jnp.maximum(first, number * per_epoch)
        end = jnp.minimum(stop, (number + 1) * per_epoch)
        so_far = jax.tree.map(lambda x: x[row], sums)
        leaves, so_far, finite = jax.lax.fori_loop(
            begin, end, step, (leaves, so_far, finite)
        )
        sums = jax.tree.map(lambda x, value: x.at[row].set(value), sums, so_far)
        return leaves, sums, finite, order

    carry = leaves, sums, jnp.bool_(True), order
    end = (stop + per_epoch - 1) // per_epoch
    leaves, sums, finite, order = jax.lax.fori_loop(first_epoch, end, epoch, carry)
    for leaf, watched in zip(leaves, program.watched, strict=True):
        if watched:
            finite &= jnp.isfinite(leaf).all()
    return Stretch(leaves, sums, finite, order)
