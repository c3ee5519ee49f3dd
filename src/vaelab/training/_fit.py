"""Training a model: epochs of compiled steps, and callbacks between them."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from vaelab._arguments import checked_flag, checked_path, checked_whole, hinting_at
from vaelab.callbacks import Callback, Checkpoint, ProgressBar
from vaelab.losses import elbo
from vaelab.training import _functions, _inputs, _tables
from vaelab.training._devices import replicated
from vaelab.training._executables import recorded_names
from vaelab.training._feeds import Feed, feed_for
from vaelab.training._interrupts import (
    Interrupt,
    deferred_interrupts,
    interrupted_safely,
)
from vaelab.training._objective import LossFunction, objective_of
from vaelab.training._program import Program
from vaelab.training._run import Run
from vaelab.training._sameness import Interned
from vaelab.training._snapshots import resume_from


class FitResult(NamedTuple):
    """What `fit` reports; the trained model is the one it was given.

    Attributes:
        history: for each quantity an array with its mean over each epoch: `loss`, and
            for a loss that returns `ELBOTerms` also `elbo`, `reconstruction` and `kl`
            (summed over the latent dimensions), in nats per image; each metric that the
            loss returns; with validation images also `validation_loss` and so on.
        epochs: how many epochs are finished.
        stopped_by: what ended the run: `"epochs"` if it ran to its end, `"interrupt"`
            after Ctrl-C, or what a callback gave as its reason.
    """

    history: dict[str, np.ndarray]
    epochs: int
    stopped_by: str

    def __repr__(self) -> str:
        """Shows the last value of each quantity."""
        return _tables.summary("FitResult", self.history, self._facts())

    def _repr_html_(self) -> str:
        """Shows them as a table in a notebook."""
        return _tables.html_table(self.history, self._facts())

    def _facts(self) -> str:
        return f"{self.epochs} epochs, stopped by {self.stopped_by}"


@hinting_at("if it is an argument of loss_fn, give knobs={{{name!r}: ...}}")
@interrupted_safely
def fit(
    model: Any,
    images: Any,
    *,
    epochs: int,
    batch_size: int | None = None,
    optimizer: optax.GradientTransformation,
    loss_fn: LossFunction = elbo,
    beta: float | optax.Schedule | None = None,
    knobs: Mapping[str, Any] | None = None,
    transform: Callable[..., Any] | None = None,
    validation: Any = None,
    callbacks: Sequence[Callback] = (),
    seed: int = 0,
    guard: bool = True,
    resume: str | os.PathLike[str] | None = None,
    mesh: Mesh | None = None,
    steps_per_epoch: int | None = None,
    progress: bool | None = None,
) -> FitResult:
    """Trains a model in place on batches of freshly shuffled images.

    The images live on the device, and one compiled program shuffles them, picks the
    batches and takes the steps, for many epochs in one call. Each epoch takes
    floor(n / batch_size) full batches of a new permutation; the rest sits out that
    epoch. Validation uses every image. The same seed gives the same result, bit for
    bit, on the same machine.

    Args:
        model: a `vaelab.VAE`, or any NNX module that `loss_fn` takes.
        images: shape `(n, *model.image_shape)`, in the support of the model's
            likelihood; or a tuple of images and labels, or a dictionary of arrays,
            which goes to `loss_fn` as it is, a batch of each. Or an iterable of such
            batches, such as a PyTorch `DataLoader`, which is gone through in its own
            order once for each epoch.
        epochs: how often to go through the images.
        batch_size: the number of images for each update, at most n.
        optimizer: an optax transformation, such as `optax.adam(1e-3)`.
        loss_fn: as in `train_step`: `(model, batch)` to `ELBOTerms`, or to a loss for
            each example or for all, with metrics beside it if you like.
        beta: the weight of the KL, for a `loss_fn` that takes one: a number, or a
            function of the update's number such as `losses.kl_warmup(1000)`. None
            leaves it to `loss_fn`.
        knobs: more arguments of `loss_fn`, as numbers or such functions:
            `{"free_bits": 0.1}`. Another float compiles nothing anew; another integer
            does. What is not given here is what `loss_fn` says.
        transform: `(key, batch)` to a batch, inside of the compiled step: binarisation,
            dequantisation, augmentation; with an argument `step` it sees the update's
            number, too. Validation images are taken as they are.
        validation: images that are not trained on, in the form that `loss_fn` is given.
            After each epoch their `loss_fn`, without dropout and with the same noise
            every time, is recorded.
        callbacks: what happens between epochs, from `vaelab.callbacks` or of your own.
        seed: of the permutations and the keys of `transform`. The model's own noise
            comes from its stream.
        guard: watch for NaN and Inf; see Raises.
        resume: the path of a `callbacks.Checkpoint`: goes on where the run that wrote
            it stopped, as if it had not. Without a checkpoint there it begins anew.
        mesh: devices that share each batch: `jax.sharding.Mesh(jax.devices(),
            ("data",))`. In several processes each runs this same call.
        steps_per_epoch: for an iterable of batches, how many make an epoch.
        progress: show a progress bar; None shows one in a terminal and in a notebook.

    Returns:
        The history, the number of epochs, and what ended the run. Ctrl-C ends it within
        about a second, with the history so far; what compiles is compiled first. A
        second Ctrl-C interrupts at once.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: `images` or `validation` do not fit the model or its likelihood, or
            contain NaN; `epochs` or `batch_size` make no run; `beta` is given to a
            `loss_fn` that takes none; a callback watches what is not recorded; the mesh
            does not divide a batch; `resume` is no checkpoint of such a run. All of it
            is said before anything is compiled.
        NonFiniteError: a loss, a parameter or anything of the optimizer's became
            non-finite. `.step` is the number of the first such step, `.report` its
            explanation, `.result` the `FitResult` until then, and the model holds the
            parameters from before that step.

    >>> import optax, vaelab
    >>> digits = vaelab.data.load_digits()
    >>> vae = vaelab.VAE((8, 8), 32, 8, rngs=nnx.Rngs(0, noise=1))
    >>> adam = optax.adam(1e-3)
    >>> result = fit(vae, digits.train, epochs=3, batch_size=64, optimizer=adam)
    >>> bool(result.history["elbo"][-1] > result.history["elbo"][0])
    True
    """
    _inputs.check_model(model)
    _functions.check_optimizer(optimizer)
    given = _functions.checked_knobs(loss_fn, knobs, beta)
    epochs = _inputs.checked_epochs(epochs)
    _inputs.check_mesh(mesh)
    seed = checked_whole("seed", seed)
    guard = checked_flag("guard", guard)
    if progress is not None:
        progress = checked_flag("progress", progress)
    if resume is not None:
        checked_path("resume", resume)
    callbacks = _inputs.checked_callbacks(callbacks)
    feed = feed_for(model, images, batch_size, steps_per_epoch, transform, mesh, epochs)
    held_out = None
    if validation is not None:
        checked = _inputs.checked_data(model, validation, "validation")
        _inputs.check_alike(feed.seen, checked)
        held_out = replicated(checked, mesh)
    objective, numbers = objective_of(loss_fn, given, transform)
    program = Program(objective=objective, mesh=mesh, **feed.shape)
    run = Run(
        model,
        nnx.Optimizer(model, _with_update_scale(optimizer), wrt=nnx.Param),
        program,
        epochs=epochs,
        steps_per_epoch=feed.steps_per_epoch,
        numbers=numbers,
        seed=seed,
        guard=guard,
    )
    with _functions.clear_about_optimizer():
        run.names = recorded_names(run.program, run.leaves, feed.example, run.knobs)
    if not any(isinstance(callback, ProgressBar) for callback in callbacks):
        callbacks.append(ProgressBar(progress))
    run.callbacks = sorted(
        callbacks,
        # It keeps what all others decide, and ends before they change the model.
        key=lambda callback: isinstance(callback, Checkpoint),
    )
    validated = [f"validation_{name}" for name in run.names if held_out is not None]
    run.recorded = [*run.names, *validated]
    _inputs.check_metrics(run.callbacks, run.recorded)
    run.feed = feed
    if resume is not None:
        resume_from(resume, run)
    return _trained(run, feed, held_out)


def _trained(run: Run, feed: Feed, held_out: Any) -> FitResult:
    with deferred_interrupts() as interrupt:
        try:
            with contextlib.ExitStack() as ends, _reason_of_end(run):
                ends.callback(run.finish)
                for callback in run.callbacks:
                    callback.on_start(run)
                    ends.callback(callback.on_end, run)
                _train(run, feed, held_out, interrupt)
        except FloatingPointError as error:  # the NonFiniteError of a step
            vars(error)["result"] = _result(run)
            raise
        if interrupt.happened:  # perhaps as late as in on_end
            run.stop("interrupt")
    return _result(run)


def _train(run: Run, feed: Feed, held_out: Any, interrupt: Interrupt) -> None:
    while run.epoch < run.epochs and run.stopped_by is None and not interrupt.happened:
        epoch = run.epoch
        feed.advance(run, _next_visit(run, held_out is not None))
        if run.epoch > epoch:
            if held_out is not None:
                run.validate(held_out)
            for callback in run.callbacks:
                if _is_due(callback, run):
                    callback.on_epoch(run)
            run.read_objects()
    if interrupt.happened:
        run.stop("interrupt")


@contextlib.contextmanager
def _reason_of_end(run: Run) -> Iterator[None]:
    try:
        yield
    except BaseException:
        run.stopped_by = run.stopped_by or "error"
        raise
    run.stopped_by = run.stopped_by or "epochs"


def _next_visit(run: Run, validated: bool) -> int:
    """Returns the epoch after which the host is needed."""
    periods = [c.every for c in run.callbacks if c.every is not None]
    periods += [1] if validated else []
    return min([run.epochs, *(run.epoch + p - run.epoch % p for p in periods)])


def _is_due(callback: Callback, run: Run) -> bool:
    every = callback.every
    return every is None or run.epoch % every == 0 or run.epoch == run.epochs


def _result(run: Run) -> FitResult:
    history = {name: np.array(run.history.get(name, [])) for name in run.recorded}
    return FitResult(history, run.epoch, str(run.stopped_by))


_scaled = Interned(maxsize=16)


def _with_update_scale(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Lets a run scale what the user's transformation gives.

    An equal transformation gives the same object again, which compiles nothing anew.
    Its first state is made in one program, which starts faster than one for each array.
    """

    def scale(updates: Any, state: Any, params: Any = None, **arguments: Any) -> Any:
        factor = arguments["update_scale"]
        return jax.tree.map(lambda u: u * factor.astype(u.dtype), updates), state

    def chained() -> optax.GradientTransformation:
        both = optax.chain(
            optax.with_extra_args_support(optimizer),
            optax.GradientTransformationExtraArgs(
                lambda params: optax.EmptyState(), scale
            ),
        )
        return both._replace(init=jax.jit(both.init))

    return _scaled.get(optimizer, chained)
