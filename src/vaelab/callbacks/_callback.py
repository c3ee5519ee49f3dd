"""What a callback is."""

import difflib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vaelab.training import Run


class Callback:
    """Something that happens between epochs.

    Inherit from it and write the methods you need; each is given the
    `vaelab.training.Run` in progress: its `history`, its `model`, its `stop(reason)`
    and its `learning_rate_scale`.

    Attributes:
        every: `on_epoch` is called after so many epochs, and after the last. None calls
            it whenever the host has a moment, up to a few times a second, and costs
            nothing: epochs in between stay one compiled call.
        metric: a name from the history that it reads, if it reads one: `fit` refuses
            a run that does not record it.

    >>> import optax, vaelab
    >>> from flax import nnx
    >>> class PrintLoss(Callback):
    ...     every = 2
    ...     def on_epoch(self, run):
    ...         print(run.epoch, sorted(run.history))
    >>> digits = vaelab.data.load_digits()
    >>> vae = vaelab.VAE((8, 8), 32, 8, rngs=nnx.Rngs(0, noise=1))
    >>> result = vaelab.fit(vae, digits.train, epochs=4, batch_size=64,
    ...     optimizer=optax.adam(1e-3), callbacks=[PrintLoss()])
    2 ['elbo', 'kl', 'loss', 'reconstruction']
    4 ['elbo', 'kl', 'loss', 'reconstruction']
    """

    every: int | None = 1
    metric: str | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Refuses a method whose name looks like a hook's and is none."""
        super().__init_subclass__(**options)
        hooks = [name for name in vars(Callback) if name.startswith("on_")]
        for name in vars(cls):
            if name.startswith("on_") and name not in hooks:
                nearest = difflib.get_close_matches(name, hooks, 1, cutoff=0.0)[0]
                raise TypeError(
                    f"{cls.__name__} has a method {name}, which is never called: name "
                    f"it {nearest}, or begin its name otherwise; hooks are "
                    f"{', '.join(hooks)}"
                )

    def on_start(self, run: "Run") -> None:
        """Called before the first step, and after a checkpoint was restored."""

    def on_epoch(self, run: "Run") -> None:
        """Called after an epoch."""

    def on_end(self, run: "Run") -> None:
        """Called after the last step, whatever ended the run, if `on_start` went well.

        Callbacks end in the reverse of the order in which they started.
        """

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint must keep: arrays and numbers under strings.

        Lists and dictionaries of them are fine, too; tuples come back as lists.
        """
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` returned."""
