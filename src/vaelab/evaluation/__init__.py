"""How good is a trained model, on images that it has not seen?

Three questions, in three groups of functions: how probable are the images
(`evaluate`, `anomaly_scores`), what do the latent units carry (`latent_codes`,
`active_units`, `posterior_collapse_report`), and does each unit stand for one factor of
variation (`disentanglement` and the scores that it gathers).

Nothing here trains, changes the model's mode, or draws from its streams.
"""

from vaelab.evaluation._disentanglement import (
    DCI,
    DisentanglementScores,
    beta_vae_score,
    dci,
    disentanglement,
    factor_vae_score,
    mutual_information_gap,
    sap,
)
from vaelab.evaluation._latents import (
    CollapseReport,
    active_units,
    latent_codes,
    posterior_collapse_report,
)
from vaelab.evaluation._metrics import Metrics, anomaly_scores, evaluate

__all__ = [
    "DCI",
    "CollapseReport",
    "DisentanglementScores",
    "Metrics",
    "active_units",
    "anomaly_scores",
    "beta_vae_score",
    "dci",
    "disentanglement",
    "evaluate",
    "factor_vae_score",
    "latent_codes",
    "mutual_information_gap",
    "posterior_collapse_report",
    "sap",
]
