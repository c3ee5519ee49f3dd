r"""The variational autoencoder and its two parts.

An `Encoder` maps an image x to an approximate posterior over a small latent vector z, a
diagonal Gaussian q(z | x) = N(mean, std²). A `Decoder` maps z back to the numbers that
a likelihood p(x | z) needs. A `VAE` holds one of each, and is trained by making both
agree with a standard normal prior on z (D. P. Kingma and M. Welling, 2013,
Auto-Encoding Variational Bayes, arXiv:1312.6114).

Calling a model draws z, from the model's own NNX stream `noise`; everything else it
offers is deterministic or takes a key.
"""

from vaelab.models._dense import Decoder, Encoder, EncoderOutput
from vaelab.models._posterior import Posterior
from vaelab.models._vae import VAE, VAEOutput
from vaelab.models._view import evaluation_view

__all__ = [
    "VAE",
    "Decoder",
    "Encoder",
    "EncoderOutput",
    "Posterior",
    "VAEOutput",
    "evaluation_view",
]
