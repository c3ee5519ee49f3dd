"""Many models at once: a grid of seeds, betas and learning rates in one program."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from vaelab._arguments import checked_list, checked_numbers, checked_whole, shown
from vaelab.losses import elbo
from vaelab.training import _functions, _inputs, _tables
from vaelab.training._executables import executables_of, recorded_names
from vaelab.training._feeds import SECONDS_PER_CALL
from vaelab.training._interrupts import deferred_interrupts, interrupted_safely
from vaelab.training._objective import LossFunction, default_of, objective_of
from vaelab.training._program import (
    ROWS,
    Bounds,
    Knobs,
    Program,
    Sum,
    without_keys,
)
from vaelab.training._sameness import Interned


class FitManyResult(NamedTuple):
    """What `fit_many` trained, in the order of seeds, then betas, then learning rates.

    Attributes:
        models: one NNX model whose arrays have a leading axis of models; `unstack`
            takes it apart.
        history: as that of `fit`, each quantity an array `(models, epochs)`. A model
            that diverged has NaN there.
        seeds: of each model, `(models,)`.
        betas: of each model, `(models,)`; NaN for a loss without one.
        learning_rates: of each model, `(models,)`.
    """

    models: Any
    history: dict[str, np.ndarray]
    seeds: np.ndarray
    betas: np.ndarray
    learning_rates: np.ndarray

    def __repr__(self) -> str:
        """Shows the range of the models' last values of each quantity."""
        return _tables.summary("FitManyResult", self.history, self._facts())

    def _repr_html_(self) -> str:
        """Shows them as a table in a notebook."""
        return _tables.html_table(self.history, self._facts())

    def _facts(self) -> str:
        return f"{len(self.seeds)} models"

    def unstack(self) -> list[Any]:
        """Returns the models as ordinary ones, in their order."""
        graphdef, state = nnx.split(self.models)
        return [
            nnx.merge(graphdef, jax.tree.map(lambda leaf, i=i: leaf[i], state))
            for i in range(len(self.seeds))
        ]


@interrupted_safely
def fit_many(
    make_model: Callable[[int], Any],
    images: Any,
    *,
    seeds: Sequence[int],
    betas: Sequence[float] | None = None,
    learning_rates: Sequence[float],
    optimizer: Callable[..., optax.GradientTransformation] = optax.adam,
    epochs: int,
    batch_size: int,
    loss_fn: LossFunction = elbo,
    knobs: Mapping[str, Any] | None = None,
    transform: Callable[..., Any] | None = None,
    validation: Any = None,
    seed: int = 0,
) -> FitManyResult:
    """Trains a model for each combination of seed, beta and learning rate, all at once.

    One compiled program takes the steps of all models side by side, which on small
    models uses the machine far better than one after the other. All see the images in
    the same order, so no difference between them comes from it. Each is what `fit`
    gives for `make_model(seed)`, its beta and `optimizer(rate)`, up to rounding.

    Args:
        make_model: from a seed to a new model; all must have the same structure.
        images: as in `fit`, on the device.
        seeds: of the models: their parameters and their noise.
        betas: weights of the KL; None leaves it to `loss_fn`.
        learning_rates: first arguments of `optimizer`.
        optimizer: from a learning rate to an optax transformation.
        epochs: as in `fit`.
        batch_size: as in `fit`.
        loss_fn: as in `fit`.
        knobs: as in `fit`, the same for all models.
        transform: as in `fit`.
        validation: as in `fit`.
        seed: as in `fit`, the same for all models.

    Returns:
        The stacked models, their histories, and the settings of each. After Ctrl-C the
        history is as long as the run was.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: as in `fit`; or a sequence is empty, or `make_model` gives models of
            different structures.

    >>> import vaelab
    >>> digits = vaelab.data.load_digits()
    >>> def make_model(seed):
    ...     return vaelab.VAE((8, 8), 32, 2, rngs=nnx.Rngs(seed, noise=seed + 1))
    >>> result = fit_many(make_model, digits.train, seeds=[0, 1], betas=[0.5, 1.0],
    ...     learning_rates=[1e-3], epochs=2, batch_size=64)
    >>> result.history["elbo"].shape, result.betas.tolist()
    ((4, 2), [0.5, 1.0, 0.5, 1.0])
    >>> len(result.unstack())
    4
    """
    seeds = [
        checked_whole(f"seeds[{i}]", value)
        for i, value in enumerate(checked_list("seeds", seeds))
    ]
    if betas is not None:
        betas = checked_numbers("betas", betas, least=0)
    learning_rates = checked_numbers("learning_rates", learning_rates, least=0)
    _functions.check_model_maker(make_model)
    _functions.check_optimizer_maker(optimizer)
    epochs = _inputs.checked_epochs(epochs)
    seed = checked_whole("seed", seed)
    given = _functions.checked_knobs(
        loss_fn, knobs, None if betas is None else betas[0]
    )
    _functions.check_transform(transform)
    models = [make_model(seed) for seed in seeds]
    for seed_of_model, model in zip(seeds, models, strict=True):
        _inputs.check_model(model, f"make_model({seed_of_model})")
    data = _inputs.checked_data(models[0], images, "images", transform)
    n = len(jax.tree.leaves(data)[0])
    objective, numbers = objective_of(loss_fn, given, transform)
    program = Program(
        objective=objective,
        batch_size=_inputs.checked_batch_size(batch_size, n),
        num_images=n,
        shuffled=True,
    )
    held_out = None
    if validation is not None:
        checked = _inputs.checked_data(models[0], validation, "validation")
        seen = _inputs.transformed_example(transform, data) if transform else data
        _inputs.check_alike(seen, checked)
        held_out = jax.tree.map(jnp.asarray, checked)
    weights = [default_of(loss_fn, "beta")] if betas is None else list(betas)
    grid = list(itertools.product(range(len(seeds)), weights, learning_rates))
    program, leaves = _stacked(program, models, optimizer, grid)
    for_each = {name: np.stack([value] * len(grid)) for name, value in numbers.items()}
    if betas is not None:
        for_each["beta"] = np.array([beta for _, beta, _ in grid], np.float32)
    run_knobs = Knobs(
        loss=for_each,
        update_scale=np.ones(len(grid), np.float32),
        key=np.asarray(jax.random.key_data(jax.random.key(seed))),
    )
    data = jax.tree.map(jnp.asarray, data)
    leaves, history = _trained(program, leaves, data, held_out, run_knobs, epochs)
    model, _ = nnx.merge(program.graphdef, program.state(leaves))
    return FitManyResult(
        model,
        history,
        np.array([seeds[i] for i, _, _ in grid]),
        np.array([beta for _, beta, _ in grid], np.float64),
        np.array([rate for _, _, rate in grid], np.float64),
    )


def _trained(
    program: Program,
    leaves: list[jax.Array],
    data: Any,
    held_out: Any,
    knobs: Knobs,
    epochs: int,
) -> tuple[list[jax.Array], dict[str, np.ndarray]]:
    first = [leaf[0] for leaf in leaves]
    executables = executables_of(program)
    names = recorded_names(program, first, data, _of_first(knobs))
    sums = {name: Sum.zeros(len(knobs.update_scale), ROWS) for name in names}
    per_epoch = program.steps_per_epoch
    none = np.zeros((len(knobs.update_scale), 0))
    recorded = [*names, *(f"validation_{n}" for n in names if held_out is not None)]
    parts = {name: [none] for name in recorded}
    done, at_once = 0, 1
    with deferred_interrupts() as interrupt:
        while not interrupt.happened and done < epochs:  # a last one is heard, too
            stop = min(done + at_once, epochs)
            bounds = Bounds(*map(np.int32, (0, done * per_epoch, stop * per_epoch)))
            began = time.perf_counter()
            out = executables.run_many(
                leaves, sums, data, program.no_order(), bounds, knobs
            )
            leaves = out.leaves
            for name, values in jax.device_get(out.sums).items():
                means = values.value()[:, : stop - done] / per_epoch
                parts[name].append(means)
            if held_out is not None:
                step = np.int32(stop * per_epoch)
                means = executables.validate_many(leaves, held_out, step, knobs)
                for name, values in jax.device_get(means).items():
                    parts[f"validation_{name}"].append(values[:, None])
            elif time.perf_counter() - began < SECONDS_PER_CALL:
                at_once = min(2 * at_once, ROWS)
            done = stop
    return leaves, {name: np.concatenate(p, axis=1) for name, p in parts.items()}


def _stacked(
    program: Program,
    models: Sequence[Any],
    optimizer: Callable[..., optax.GradientTransformation],
    grid: Sequence[tuple[int, float, float]],
) -> tuple[Program, list[jax.Array]]:
    """Returns the program for these models, and their states on top of each other."""
    tx = _with_learning_rate_in_its_state(optimizer)
    optimizers = [nnx.Optimizer(model, tx, wrt=nnx.Param) for model in models]
    pairs = list(zip(models, optimizers, strict=True))
    program = program.about(*nnx.split(pairs[0]))
    rows = []
    for i, _, rate in grid:
        model, optimizer_of_model = pairs[i]
        learning_rate = optimizer_of_model.opt_state.hyperparams["learning_rate"]
        learning_rate[...] = jnp.asarray(rate, jnp.float32)
        graphdef, state = nnx.split((model, optimizer_of_model))
        if graphdef != program.graphdef:
            raise ValueError(
                "make_model gives models of different structures for different seeds: "
                "only their parameters and random streams may differ"
            )
        rows.append(without_keys(state))
    return program, [jnp.stack(column) for column in zip(*rows, strict=True)]


def _of_first(knobs: Knobs) -> Knobs:
    first = {name: values[0] for name, values in knobs.loss.items()}
    return Knobs(first, knobs.update_scale[0], knobs.key)


_adjustable = Interned(maxsize=16)


def _with_learning_rate_in_its_state(
    optimizer: Callable[..., optax.GradientTransformation],
) -> optax.GradientTransformation:
    """Returns one transformation for all rates, the same for an equal optimizer."""

    def make(learning_rate: Any) -> optax.GradientTransformation:
        made = optimizer(learning_rate)
        if not isinstance(made, optax.GradientTransformation):
            raise TypeError(
                f"optimizer returned {shown(made)}: return an optax transformation"
            )
        return made

    return _adjustable.get(
        optimizer, lambda: optax.inject_hyperparams(make)(learning_rate=1.0)
    )
