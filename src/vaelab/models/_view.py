"""A model as it is judged: without dropout."""

from typing import Any

from flax import nnx


def evaluation_view(model: Any) -> Any:
    """Returns the model without dropout, sharing its parameters.

    The model itself keeps its mode and its random streams.

    Args:
        model: any NNX module.

    >>> import vaelab
    >>> vae = vaelab.VAE((8, 8), 32, 8, dropout=0.5, rngs=nnx.Rngs(0))
    >>> view = evaluation_view(vae)
    >>> view.encoder.hidden.layers[2].deterministic
    True
    >>> vae.encoder.hidden.layers[2].deterministic
    False
    """
    view = nnx.merge(*nnx.split(model))
    view.eval()
    return view
