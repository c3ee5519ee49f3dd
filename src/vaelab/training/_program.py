"""The compiled program of a run: any stretch of its steps in one call.

The program's loop has bounds that are arguments, so one executable takes one step or a
hundred epochs, and takes them bit for bit alike however the run is cut into calls.
That makes everything around it simple: a display or Ctrl-C cut where they like, a
resumed run goes on where another one stopped, and a NaN is traced to its step by
running shorter and shorter stretches again.

NNX modules are taken apart once, outside. What goes around the loop is a list of plain
arrays; random keys travel as their data, which survives any device mesh.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vaelab.training._objective import Objective, takes
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
        objective: the loss function and its schedules.
        transform: from a key and a batch to a batch, or None.
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
    transform: Callable[..., Any] | None
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
        batch = self.transformed(batch, step, knobs)
        arguments = self.objective.arguments(step, knobs.loss)
        if self.objective.needs_key:
            arguments["key"] = key_for(knobs, LOSS, step)
        grads, found = gradient(model, batch, self.objective.loss_fn, arguments)
        optimizer.update(
            model, grads, value=found.loss, update_scale=knobs.update_scale
        )
        return found.recorded

    def transformed(self, batch: Any, step: Number, knobs: Knobs) -> Any:
        """Returns what the loss is given of a batch."""
        if self.transform is None:
            return batch
        step_too = {"step": step} if takes(self.transform, "step") else {}
        return self.transform(key_for(knobs, TRANSFORM, step), batch, **step_too)

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


def _is_finite(leaf: jax.Array) -> jax.Array:
    return jnp.isfinite(leaf).all()


@partial(jax.jit, static_argnames="program", inline=True)
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
            leaves, values = update(
                program, leaves, batch, bounds.origin + local, knobs
            )
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
            finite &= _is_finite(leaf)
    return Stretch(leaves, sums, finite, order)


def recorded_names(
    program: Program, leaves: list[jax.Array], data: Any, knobs: Knobs
) -> list[str]:
    """Names what the steps will record. Nothing is compiled, the step is traced."""

    def first_step(leaves: list[jax.Array], data: Any, step: jax.Array) -> Any:
        batch = program.batch(data, jnp.arange(program.num_images), step)
        return update(program, leaves, batch, step, knobs)[1]

    return sorted(jax.eval_shape(first_step, leaves, data, np.int32(0)))


run = jax.jit(steps, static_argnames="program", donate_argnames="leaves")


def of_many(
    function: Callable[..., Any], in_axes: tuple[Any, ...], out_axes: Any = 0
) -> Any:
    """Lets a function of a program take many models, stacked along the first axis."""

    def many(program: Program, *arguments: Any) -> Any:
        of_one = partial(function, program)
        return jax.vmap(of_one, in_axes=in_axes, out_axes=out_axes)(*arguments)

    return many


# They share the order of the images, so a layer's first product is one for all.
run_many = jax.jit(
    of_many(
        steps,
        (0, 0, None, None, None, AXES_OF_KNOBS),
        Stretch._make((0, 0, 0, None)),
    ),
    static_argnums=0,
    donate_argnums=1,
)


@jax.jit
def copied(leaves: list[jax.Array]) -> list[jax.Array]:
    """Copies arrays, since `run` takes its own for good."""
    return [jnp.copy(leaf) for leaf in leaves]


@partial(jax.jit, static_argnames="program")
def batch_of_step(program: Program, data: Any, local: jax.Array, knobs: Knobs) -> Any:
    """Returns the images of a step, counted from the start of these images."""
    order = program.order(local // program.steps_per_epoch, knobs)
    return program.batch(data, order.images, local)
