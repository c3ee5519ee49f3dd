"""Models as plain data, from which vaelab builds them again without their script.

A description is trusted only if what it builds has the very structure of the model it
describes: a model with anything of the user's own has none.
"""

import dataclasses
import json
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vaelab import likelihoods
from vaelab._arguments import checked_flag, listed, shown
from vaelab.models._activation import named_activation
from vaelab.models._dense import Decoder, Encoder
from vaelab.models._vae import VAE


def description(model: Any) -> dict[str, Any] | None:
    """Describes a model of vaelab's own as JSON; None if it is not all vaelab's.

    Args:
        model: any NNX module.
    """
    try:
        described = _described(model)
        graphdef, shapes = _built_shapes(json.dumps(described))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    own_graphdef, state = nnx.split(model)
    same = graphdef == own_graphdef and _shapes(shapes) == _shapes(state)
    return described if same else None


@lru_cache(maxsize=8)
def _built_shapes(described: str) -> tuple[Any, Any]:
    """The parts of what a description builds, which a run asks for at each checkpoint.

    Args:
        described: the description as JSON.
    """
    return nnx.split(nnx.eval_shape(lambda: build(json.loads(described))))


def build(described: Any) -> VAE:
    """Makes a model from its description, with parameters of no meaning.

    Raises:
        ValueError: it is no description of a model of this version of vaelab. It comes
            from a file, so nothing that it names is looked up but what is listed here.
    """
    try:
        return _built(described)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the description of the model is not valid: {error}") from (
            error
        )


def _built(described: Any) -> VAE:
    _check_keys(described, _KEYS, "the model")
    if described["class"] != "VAE":
        raise ValueError(f"class is {shown(described['class'])}, not VAE")
    rngs = nnx.Rngs(**dict.fromkeys(_stream_names(described["streams"]), 0))
    options = {
        "dropout": described["dropout"],
        "dtype": described["dtype"],
        "activation": named_activation(described["activation"]),
        "rngs": rngs,
    }
    encoder, decoder = dict(described["encoder"]), dict(described["decoder"])
    model = VAE.from_parts(
        Encoder(**encoder, **options),
        Decoder(**decoder, **options),
        image_shape=tuple(described["image_shape"]),
        likelihood=_built_likelihood(dict(described["likelihood"])),
        rngs=rngs,
    )
    if not checked_flag("training", described["training"]):
        model.eval()
    return model


_KEYS = frozenset(
    "class image_shape encoder decoder likelihood dropout activation dtype training "
    "streams".split()
)

_LIKELIHOODS = frozenset(
    "Bernoulli Categorical ContinuousBernoulli Gaussian LearnedGaussian "
    "PixelwiseGaussian".split()
)


def _check_keys(described: Any, keys: frozenset[str], what: str) -> None:
    if not isinstance(described, dict) or set(described) != keys:
        found = listed(described) if isinstance(described, dict) else shown(described)
        raise ValueError(f"{what} has {found}, where {listed(sorted(keys))} belong")


def _stream_names(names: Any) -> list[str]:
    valid = isinstance(names, list) and all(
        isinstance(name, str) and name.isidentifier() for name in names
    )
    if not valid:
        raise ValueError(f"streams is {shown(names)}, no list of names")
    return names


def _built_likelihood(described: dict[str, Any]) -> likelihoods.Likelihood:
    kind = described.pop("class")
    if not isinstance(kind, str) or kind not in _LIKELIHOODS:
        raise ValueError(
            f"likelihood is {shown(kind)}, none of {listed(sorted(_LIKELIHOODS))}"
        )
    return getattr(likelihoods, kind)(**described)


def packed(model: Any) -> tuple[dict[str, Any], list[Any]] | None:
    """Returns what `unpacked` makes the model of; None if it is not all vaelab's."""
    described = description(model)
    if described is None:
        return None
    leaves = jax.tree.leaves(nnx.split(model)[1])
    return described, [_as_data(leaf) for leaf in leaves]


def unpacked(described: dict[str, Any], arrays: list[Any]) -> VAE:
    """Makes a model of a description and its arrays."""
    graphdef, shapes = _built_shapes(json.dumps(described))
    leaves = [
        jnp.asarray(array)
        if not isinstance(array, tuple)
        else jax.random.wrap_key_data(jnp.asarray(array[1]), impl=array[0])
        for array in arrays
    ]
    state = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    return nnx.merge(graphdef, state)


def _as_data(leaf: jax.Array) -> Any:
    if not _is_key(leaf):
        return np.asarray(leaf)
    return str(jax.random.key_impl(leaf)), np.asarray(jax.random.key_data(leaf))


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
    return functions[0].name if functions else "relu"


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
        (leaf.shape, "key" if _is_key(leaf) else leaf.dtype)
        for leaf in jax.tree.leaves(state)
    ]


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
