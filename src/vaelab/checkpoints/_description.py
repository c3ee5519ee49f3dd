"""Models as plain data, from which vaelab builds them again without their script.

A description is trusted only if what it builds has the very structure of the model it
describes: a model with anything of the user's own has none.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from vaelab import likelihoods
from vaelab.checkpoints._trees import is_key
from vaelab.models import VAE, Decoder, Encoder


def description(model: Any) -> dict[str, Any] | None:
    """Describes a model of vaelab's own as JSON; None if it is not all vaelab's.

    Args:
        model: any NNX module.
    """
    try:
        described = _described(model)
        built = nnx.eval_shape(lambda: build(described))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    ours, theirs = nnx.split(built), nnx.split(model)
    same = ours[0] == theirs[0] and _shapes(ours[1]) == _shapes(theirs[1])
    return described if same else None


def build(described: dict[str, Any]) -> VAE:
    """Makes a model from its description, with parameters of no meaning."""
    rngs = nnx.Rngs(**dict.fromkeys(described["streams"], 0))
    dtype = described["dtype"]
    options = {
        "dropout": described["dropout"],
        "dtype": dtype and jnp.dtype(dtype),
        "activation": getattr(nnx, described["activation"]),
        "rngs": rngs,
    }
    likelihood = dict(described["likelihood"])
    make_likelihood = getattr(likelihoods, likelihood.pop("class"))
    encoder, decoder = dict(described["encoder"]), dict(described["decoder"])
    bounds = encoder["log_std_bounds"]
    encoder["log_std_bounds"] = tuple(bounds) if bounds is not None else None
    model = VAE.from_parts(
        Encoder(**encoder, **options),
        Decoder(**decoder, **options),
        image_shape=tuple(described["image_shape"]),
        likelihood=make_likelihood(**likelihood),
        rngs=rngs,
    )
    if not described["training"]:
        model.eval()
    return model


def _described(model: Any) -> dict[str, Any]:
    if type(model) is not VAE:
        raise TypeError("not a vaelab.VAE")
    encoder, decoder = model.encoder, model.decoder
    layers = [*encoder.hidden.layers, *decoder.hidden.layers]
    drops = [layer for layer in layers if isinstance(layer, nnx.Dropout)]
    dtype = encoder.linear_mean.dtype
    return {
        "class": "VAE",
        "image_shape": list(model.image_shape),
        "encoder": {
            "input_size": _layers(encoder, encoder.linear_mean)[0].in_features,
            "hidden_size": _widths(encoder),
            "latent_size": encoder.latent_size,
            "log_std_bounds": encoder.log_std_bounds,
        },
        "decoder": {
            "latent_size": _layers(decoder, decoder.linear)[0].in_features,
            "hidden_size": _widths(decoder),
            "output_size": decoder.linear.out_features,
        },
        "likelihood": _likelihood(model.likelihood),
        "dropout": float(drops[0].rate) if drops else 0.0,
        "activation": _activation(layers),
        "dtype": None if dtype is None else jnp.dtype(dtype).name,
        "training": not any(drop.deterministic for drop in drops),
        "streams": list(nnx.to_pure_dict(nnx.state(model.rngs))),
    }


def _layers(part: Any, last: nnx.Linear) -> list[nnx.Linear]:
    hidden = [x for x in part.hidden.layers if isinstance(x, nnx.Linear)]
    return [*hidden, last]


def _activation(layers: list[Any]) -> str:
    """Names the function after a hidden layer; any will do where there is none."""
    functions = [x for x in layers if not isinstance(x, nnx.Linear | nnx.Dropout)]
    return functions[0].__name__ if functions else "relu"


def _widths(part: Any) -> list[int]:
    return [x.out_features for x in part.hidden.layers if isinstance(x, nnx.Linear)]


def _likelihood(likelihood: Any) -> dict[str, Any]:
    kind = type(likelihood)
    if getattr(likelihoods, kind.__name__, None) is not kind:
        raise TypeError("not a likelihood of vaelab")
    if dataclasses.is_dataclass(kind):
        fields = {field.name for field in dataclasses.fields(kind)}
        return {"class": kind.__name__, **{f: getattr(likelihood, f) for f in fields}}
    return {"class": kind.__name__, "floor": likelihood.floor}


def _shapes(state: Any) -> list[tuple[Any, Any]]:
    """Which generator a random key is of is not of the model: it is saved beside."""
    return [
        (leaf.shape, "key" if is_key(leaf) else leaf.dtype)
        for leaf in jax.tree.leaves(state)
    ]
