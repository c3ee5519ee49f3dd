"""What a compiled run depends on, and what one step of it does.

NNX modules are taken apart once, outside. What goes around the loop is a list of plain
arrays; random keys travel as their data, which survives any device mesh.
"""

import dataclasses
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vaelab.training._objective import Objective
from vaelab.training._step import gradient

Number = Any  # a NumPy array on the host, a JAX one inside of the program

ROWS = 128
"""How many epochs one call can report on."""


class Knobs(NamedTuple):
    """Numbers that change from run to run without a new compilation.

    Attributes:
        loss: arguments of the loss under their names, such as `beta`.
        update_scale: multiplies each update of the parameters.
        key: of the permutations, as key data.
    """

    loss: dict[str, Number]
    update_scale: Number
    key: Number


AXES_OF_KNOBS = Knobs(loss=0, update_scale=0, key=None)  # pyright: ignore[reportArgumentType] (axes, not values)
"""Which of them each of many models has for itself."""

SHUFFLE, TRANSFORM, VALIDATION, LOSS = range(4)


def key_for(knobs: Knobs, purpose: int, number: Number = 0) -> jax.Array:
    """Returns a random key of a run: one for each purpose and number."""
    key = jax.random.wrap_key_data(knobs.key)
    return jax.random.fold_in(jax.random.fold_in(key, purpose), number)


class Bounds(NamedTuple):
    """Numbers of steps, counted from 0 over all epochs.

    Attributes:
        origin: the step at which the images at hand begin.
        first: the first step.
        stop: the step that is not taken any more.
    """

    origin: Number
    first: Number
    stop: Number


class Order(NamedTuple):
    """The order of the images in an epoch, which takes long to find if they are many.

    Attributes:
        epoch: its number; -1 is none.
        images: their indices, `(num_images,)`.
    """

    epoch: Number
    images: Number


class Sum(NamedTuple):
    """A float32 sum that loses no digits, however many numbers it is of.

    Attributes:
        total: the rounded sum.
        lost: what the rounding of each addition took away, summed.
    """

    total: Number
    lost: Number

    @classmethod
    def zeros(cls, *shape: int) -> "Sum":
        """Returns sums of nothing."""
        return cls(np.zeros(shape, np.float32), np.zeros(shape, np.float32))

    def plus(self, value: jax.Array) -> "Sum":
        r"""Adds a number, with the error of the addition.

        Source: D. E. Knuth, The Art of Computer Programming 2, theorem B in 4.2.2.
        """
        total = self.total + value
        part = total - self.total
        error = (self.total - (total - part)) + (value - part)
        return Sum(total, self.lost + error)

    def value(self) -> np.ndarray:
        """Returns the sum in float64, on the host."""
        total, lost = (np.asarray(x, np.float64) for x in self)
        return np.where(np.isfinite(total), total + lost, total)


class Stretch(NamedTuple):
    """What came of some steps.

    Attributes:
        leaves: the state after them.
        sums: for each quantity, its sum over the steps of each epoch, `(ROWS,)`.
        finite: whether every loss and the state after the last step is finite.
        order: of the last epoch.
    """

    leaves: list[jax.Array]
    sums: dict[str, Sum]
    finite: jax.Array
    order: Order


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """What a compiled run depends on; equal ones share their executable.

    Attributes:
        objective: the loss, with what surrounds it.
        batch_size: the number of images for each update.
        num_images: how many there are.
        shuffled: whether each epoch takes its own permutation.
        mesh: the devices that share each batch, or None.
        graphdef: of the model and its optimizer.
        treedef: of their state.
        key_kinds: for each leaf of the state, its random generator if it is a key.
        watched: for each leaf, whether it must stay finite.
    """

    objective: Objective
    batch_size: int
    num_images: int
    shuffled: bool
    mesh: Mesh | None = None
    graphdef: Any = None
    treedef: Any = None
    key_kinds: tuple[str | None, ...] = ()
    watched: tuple[bool, ...] = ()

    def __eq__(self, other: object) -> bool:
        if self is other:  # by far the most frequent case, at each compiled call
            return True
        return isinstance(other, Program) and self._fields == other._fields

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self._fields)

    @property
    def _fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    @property
    def steps_per_epoch(self) -> int:
        """The number of full batches in the images."""
        return self.num_images // self.batch_size

    def about(self, graphdef: Any, state: Any) -> "Program":
        """Returns the same program for a model and an optimizer of this structure."""
        leaves, treedef = jax.tree.flatten(state)
        kinds = tuple(map(_key_kind, leaves))
        arrays = jax.device_get(without_keys(state))  # no program for one look
        watched = tuple(bool(np.isfinite(array).all()) for array in arrays)
        return dataclasses.replace(
            self,
            graphdef=graphdef,
            treedef=treedef,
            key_kinds=kinds,
            watched=watched,
        )

    def objects(self, leaves: list[jax.Array]) -> tuple[Any, nnx.Optimizer]:
        """Puts a model and an optimizer together, of their own."""
        return nnx.merge(self.graphdef, self.state(leaves), copy=True)

    def state(self, leaves: list[jax.Array]) -> Any:
        """Returns the NNX state that these arrays stand for."""
        typed = [
            leaf if kind is None else jax.random.wrap_key_data(leaf, impl=kind)
            for leaf, kind in zip(leaves, self.key_kinds, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, typed)

    def batch(self, data: Any, order: jax.Array, local: jax.Array) -> Any:
        """Picks the images of a step, counted from the start of these images."""
        if self.batch_size == self.num_images:
            batch = data  # an order within the batch would change nothing
        else:
            start = local % self.steps_per_epoch * self.batch_size
            picked = jax.lax.dynamic_slice(order, (start,), (self.batch_size,))
            batch = jax.tree.map(
                lambda x: x.at[picked].get(mode="promise_in_bounds"), data
            )
        if self.mesh is None:
            return batch
        shards = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
        return jax.lax.with_sharding_constraint(batch, shards)

    def no_order(self) -> Order:
        """Returns what stands for an order that is not known yet."""
        return Order(np.int32(-1), np.zeros(self.num_images, np.int32))

    def order(self, epoch: jax.Array, knobs: Knobs) -> Order:
        """Returns the order of the images in an epoch."""
        if not self.shuffled or self.batch_size == self.num_images:
            images = jnp.arange(self.num_images, dtype=jnp.int32)
        else:
            key = key_for(knobs, SHUFFLE, epoch)
            images = jax.random.permutation(key, self.num_images).astype(jnp.int32)
        return Order(epoch, images)

    def step(
        self,
        model: Any,
        optimizer: nnx.Optimizer,
        batch: Any,
        step: Number,
        knobs: Knobs,
    ) -> dict[str, jax.Array]:
        """Updates the model; returns what the history records."""
        objective = self.objective
        batch = objective.transformed(key_for(knobs, TRANSFORM, step), batch, step)
        arguments = objective.arguments(step, knobs.loss)
        if objective.needs_key:
            arguments["key"] = key_for(knobs, LOSS, step)
        grads, found = gradient(model, batch, objective.loss_fn, arguments)
        optimizer.update(
            model, grads, value=found.loss, update_scale=knobs.update_scale
        )
        return found.recorded

    def taken_apart(self, model: Any, optimizer: nnx.Optimizer) -> list[jax.Array]:
        """Returns the arrays of objects that came from `objects`."""
        graphdef, state = nnx.split((model, optimizer))
        if graphdef != self.graphdef:
            raise TypeError(
                "a training step changed the structure of the model or a Python "
                "attribute of it, such as a counter: hold what changes in an "
                "nnx.Variable"
            )
        return without_keys(state)


def without_keys(state: Any) -> list[jax.Array]:
    """Returns the arrays of an NNX state, keys as their data."""
    return [
        jax.random.key_data(leaf) if _key_kind(leaf) else leaf
        for leaf in jax.tree.leaves(state)
    ]


def _key_kind(leaf: Any) -> str | None:
    """Names the random generator of a key; None for other arrays."""
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return None
    return str(jax.random.key_impl(leaf))
