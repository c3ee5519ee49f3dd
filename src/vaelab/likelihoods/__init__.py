r"""The distribution p(x | z) of an image, given what the decoder says about it.

A decoder returns unconstrained numbers, the logits; a likelihood turns them into a
probability distribution over images. It owns four things: the negative log-likelihood
`nll` that training minimises, the `mean` that one shows, the `sample` that one draws,
and the support outside of which the first of these has no meaning, which `check`
enforces. `outputs_per_pixel` says how many numbers it needs for each pixel; if that is
more than one, the logits end in an axis of that length.

`Bernoulli` is for black and white pixels and `Categorical` for a number of grey levels;
their nll is never negative. `ContinuousBernoulli` and the Gaussians are densities over
real numbers: theirs may be negative, and comparing it with the others' makes no sense.

A likelihood without parameters is a frozen dataclass: two equal ones share compiled
programs. One with parameters is an NNX module, trained with the model that holds it.
"""

from vaelab.likelihoods._bernoulli import Bernoulli, ContinuousBernoulli
from vaelab.likelihoods._categorical import Categorical, uniform_dequantize
from vaelab.likelihoods._gaussian import Gaussian, LearnedGaussian, PixelwiseGaussian
from vaelab.likelihoods._protocol import Likelihood

__all__ = [
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "Gaussian",
    "LearnedGaussian",
    "Likelihood",
    "PixelwiseGaussian",
    "uniform_dequantize",
]
