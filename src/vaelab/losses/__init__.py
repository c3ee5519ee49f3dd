r"""Objectives: functions of a model and a batch, in nats per example.

The evidence lower bound of an image x,

.. math::

    \mathrm{ELBO}(x) = \mathbb{E}_{q(z \mid x)}[\ln p(x \mid z)]
    - \mathrm{KL}(q(z \mid x) \,\|\, p(z)) \le \ln p(x),

pays for every nat of information in z (the KL) with at most as much in the
reconstruction. A loss returns `ELBOTerms`: the `loss` that is minimised, which may
weigh the two differently, and beside it the terms of the true ELBO. All of them are
values of single examples; whoever calls decides how to average.
"""

from vaelab.losses._elbo import (
    ELBOTerms,
    effective_beta,
    elbo,
    kl_standard_normal,
    kl_warmup,
    mean_reduced_loss,
)
from vaelab.losses._importance import importance_samples, iwae_bound, iwae_loss
from vaelab.losses._total_correlation import (
    TotalCorrelationTerms,
    beta_tc_loss,
    stratified_log_weights,
    total_correlation_terms,
)

__all__ = [
    "ELBOTerms",
    "TotalCorrelationTerms",
    "beta_tc_loss",
    "effective_beta",
    "elbo",
    "importance_samples",
    "iwae_bound",
    "iwae_loss",
    "kl_standard_normal",
    "kl_warmup",
    "mean_reduced_loss",
    "stratified_log_weights",
    "total_correlation_terms",
]
