"""Does each latent unit stand for one factor of variation, and each factor have one?

All scores compare codes, shape `(n, latent)`, with known integer factors, shape
`(n, num_factors)`: `data.load_sprites` has such images. They disagree on purpose: a
code that says everything twice is disentangled for DCI, and not at all for MIG.
"""

from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from vaelab._arguments import checked_seed, checked_whole
from vaelab._checks import host_array, require_finite


class DCI(NamedTuple):
    """Disentanglement, completeness and informativeness, each in [0, 1]."""

    disentanglement: float
    completeness: float
    informativeness: float


class DisentanglementScores(NamedTuple):
    """All scores of one code, each in [0, 1] and the higher the better."""

    mutual_information_gap: float
    dci: DCI
    sap: float
    factor_vae_score: float
    beta_vae_score: float


def disentanglement(
    codes: ArrayLike, factors: ArrayLike, *, seed: int = 0
) -> DisentanglementScores:
    """Computes every score.

    Args:
        codes: shape `(n, latent)`.
        factors: integers, shape `(n, num_factors)`.
        seed: for the scores that sample or fit.

    Returns:
        The scores.

    Raises:
        ValueError: the shapes do not fit each other, or factors are no integers.

    >>> factors = np.random.default_rng(0).integers(0, 4, (500, 3))
    >>> scores = disentanglement(factors + 0.0, factors)
    >>> print(f"{scores.sap:.1f} {scores.dci.disentanglement:.1f}")
    1.0 1.0
    """
    return DisentanglementScores(
        mutual_information_gap(codes, factors),
        dci(codes, factors, seed=seed),
        sap(codes, factors),
        factor_vae_score(codes, factors, seed=seed),
        beta_vae_score(codes, factors, seed=seed),
    )


def mutual_information_gap(
    codes: ArrayLike, factors: ArrayLike, *, bins: int = 20
) -> float:
    r"""MIG: how much more the best unit knows of a factor than the second best.

    .. math::

        \frac1K \sum_k \frac{I(z_{j^*}; v_k) - \max_{j \ne j^*} I(z_j; v_k)}{H(v_k)}

    Args:
        codes: shape `(n, latent)`.
        factors: integers, shape `(n, num_factors)`.
        bins: of equal width, into which each unit is divided.

    Returns:
        The mean over factors, in [0, 1].

    >>> factors = np.random.default_rng(0).integers(0, 4, (5000, 2))
    >>> round(mutual_information_gap(factors, factors), 2)
    1.0
    >>> round(mutual_information_gap(np.tile(factors, 2), factors), 2)  # said twice
    0.0

    Source: R. T. Q. Chen et al. (2018), arXiv:1802.04942, section 4.1.
    """
    from sklearn.metrics import mutual_info_score

    codes, factors = _checked(codes, factors)
    bins = checked_whole("bins", bins, least=1)
    levels = np.stack(
        [np.digitize(unit, np.histogram(unit, bins)[1][:-1]) for unit in codes.T]
    )
    information = np.array(
        [[mutual_info_score(unit, factor) for factor in factors.T] for unit in levels]
    )
    entropies = [mutual_info_score(factor, factor) for factor in factors.T]
    return _mean_gap(information / np.array(entropies)[None])


def sap(codes: ArrayLike, factors: ArrayLike) -> float:
    r"""SAP: how much better the best unit predicts a factor than the second best.

    The prediction is linear and its quality :math:`R^2`, so the factors are taken as
    ordered.

    Args:
        codes: shape `(n, latent)`.
        factors: integers, shape `(n, num_factors)`.

    Returns:
        The mean over factors, in [0, 1].

    >>> factors = np.random.default_rng(0).integers(0, 4, (5000, 2))
    >>> round(sap(factors, factors), 2)
    1.0

    Source: A. Kumar et al. (2018), Variational Inference of Disentangled Latent
    Concepts from Unlabeled Observations, arXiv:1711.00848, section 3.
    """
    codes, factors = _checked(codes, factors)
    centred_codes, centred_factors = codes - codes.mean(0), factors - factors.mean(0)
    covariance = centred_codes.T @ centred_factors / len(codes)
    variances = codes.var(axis=0)[:, None] * factors.var(axis=0)[None]
    r_squared = np.divide(
        covariance**2, variances, out=np.zeros_like(covariance), where=variances > 0
    )
    return _mean_gap(r_squared)


def dci(codes: ArrayLike, factors: ArrayLike, *, seed: int = 0) -> DCI:
    r"""DCI: from how much each unit matters for predicting each factor.

    With the importances R, normalised over a unit's factors, disentanglement is one
    minus their entropy (in units of ln K), weighted by how much the unit matters;
    completeness is the same over a factor's units. Informativeness is the accuracy on
    the fifth of the data that the forests were not fitted to.

    Args:
        codes: shape `(n, latent)`.
        factors: integers, shape `(n, num_factors)`.
        seed: of the forests and the split.

    Returns:
        The three numbers, each in [0, 1].

    >>> factors = np.random.default_rng(0).integers(0, 4, (500, 2))
    >>> scores = dci(factors, factors)
    >>> print(f"{scores.disentanglement:.1f} {scores.completeness:.1f}")
    1.0 1.0

    Source: C. Eastwood and C. K. I. Williams (2018), A Framework for the Quantitative
    Evaluation of Disentangled Representations, ICLR.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import train_test_split

    codes, factors = _checked(codes, factors)
    seed = checked_seed("seed", seed)
    split: Any = train_test_split(codes, factors, test_size=0.2, random_state=seed)
    codes_train, codes_test, factors_train, factors_test = split
    importances, accuracies = [], []
    for k in range(factors.shape[1]):
        forest = RandomForestClassifier(
            n_estimators=20,
            max_features=1.0,  # pyright: ignore[reportArgumentType] (no types there)
            random_state=seed,
        )
        forest.fit(codes_train, factors_train[:, k])
        importances.append(forest.feature_importances_)
        accuracies.append(forest.score(codes_test, factors_test[:, k]))
    disentangled, complete = importance_scores(np.stack(importances, axis=1))
    return DCI(disentangled, complete, float(np.mean(accuracies)))


def importance_scores(importances: np.ndarray) -> tuple[float, float]:
    """Returns DCI's disentanglement and completeness of `(latent, num_factors)`."""
    total = importances.sum()
    if total == 0:
        return 0.0, 0.0

    def certainty(rows: np.ndarray) -> float:
        weight = rows.sum(axis=1)
        alive = weight > 0
        p = rows[alive] / weight[alive, None]
        entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(axis=1)
        score = 1 - entropy / np.log(max(rows.shape[1], 2))
        return float((score * weight[alive]).sum() / total)

    return certainty(importances), certainty(importances.T)


def factor_vae_score(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    seed: int = 0,
    votes: int = 800,
    batch_size: int = 64,
) -> float:
    """The accuracy of naming a fixed factor by the unit that varies least.

    Each vote takes a batch in which one factor is fixed and finds the unit with the
    least variance, relative to its variance over all data. A unit then stands for the
    factor that it was most often found with.

    Args:
        codes: shape `(n, latent)`.
        factors: integers, shape `(n, num_factors)`.
        seed: of the batches.
        votes: how many batches.
        batch_size: examples in each, drawn with replacement.

    Returns:
        The accuracy, in [0, 1]; 0 if no unit varies.

    >>> factors = np.random.default_rng(0).integers(0, 4, (500, 2))
    >>> factor_vae_score(factors, factors)
    1.0

    Source: H. Kim and A. Mnih (2018), Disentangling by Factorising, arXiv:1802.05983,
    section 4.
    """
    codes, factors = _checked(codes, factors)
    seed = checked_whole("seed", seed)
    votes = checked_whole("votes", votes, least=1)
    batch_size = checked_whole("batch_size", batch_size, least=2)
    spread = codes.std(axis=0)
    alive = spread > 1e-6
    if not alive.any():
        return 0.0
    scaled = codes[:, alive] / spread[alive]
    rng = np.random.default_rng(seed)
    count = np.zeros((scaled.shape[1], factors.shape[1]), int)
    for _ in range(votes):
        k = rng.integers(factors.shape[1])
        rows = _rows_with_one_factor_fixed(factors, k, batch_size, rng)
        count[scaled[rows].var(axis=0).argmin(), k] += 1
    return float(count.max(axis=1).sum() / votes)


def beta_vae_score(
    codes: ArrayLike,
    factors: ArrayLike,
    *,
    seed: int = 0,
    points: int = 800,
    batch_size: int = 64,
) -> float:
    """The accuracy of naming a shared factor from the mean difference of codes.

    Each point is the mean absolute difference of the codes of examples that share one
    factor, pair by pair; a linear classifier tells which. Half of the points are for
    fitting it.

    Args:
        codes: shape `(n, latent)`.
        factors: integers, shape `(n, num_factors)`.
        seed: of the pairs.
        points: how many.
        batch_size: pairs for each, drawn with replacement.

    Returns:
        The accuracy on the other half, in [0, 1]; chance is 1 / num_factors.

    >>> factors = np.random.default_rng(0).integers(0, 4, (500, 2))
    >>> beta_vae_score(factors, factors)
    1.0

    Source: I. Higgins et al. (2017), beta-VAE, ICLR, section 3.
    """
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    codes, factors = _checked(codes, factors)
    points = checked_whole("points", points, least=2 * factors.shape[1])
    batch_size = checked_whole("batch_size", batch_size, least=1)
    rng = np.random.default_rng(checked_whole("seed", seed))
    shared = np.arange(points) % factors.shape[1]
    differences = []
    for k in rng.permutation(shared):
        first = rng.integers(len(codes), size=batch_size)
        second = _partners(factors[:, k], first, rng)
        differences.append((k, np.abs(codes[first] - codes[second]).mean(axis=0)))
    target, x = (
        np.array([k for k, _ in differences]),
        np.stack([d for _, d in differences]),
    )
    half = points // 2
    classifier = make_pipeline(StandardScaler(), RidgeClassifier())
    classifier.fit(x[:half], target[:half])
    return float(classifier.score(x[half:], target[half:]))


def _checked(codes: ArrayLike, factors: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    codes, factors = host_array(codes, "codes"), host_array(factors, "factors")
    if codes.dtype.kind not in "iuf":
        raise TypeError(f"codes has dtype {codes.dtype}: give real numbers")
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors):
        raise ValueError(
            f"codes has shape {codes.shape} and factors {factors.shape}: give (n, "
            "latent) and (n, num_factors) with the same n"
        )
    if not codes.size or not factors.size:
        raise ValueError(
            f"codes has shape {codes.shape} and factors {factors.shape}: give at least "
            "one example, unit and factor"
        )
    if factors.dtype.kind not in "iu":
        raise ValueError(
            f"factors has dtype {factors.dtype}: give integers, such as the indices of "
            "the values"
        )
    require_finite(codes, "codes")
    if constant := np.flatnonzero(factors.var(axis=0) == 0).tolist():
        raise ValueError(f"factors {constant} have a single value: leave them out")
    return codes.astype(np.float64), factors


def _mean_gap(scores: np.ndarray) -> float:
    """The mean over factors of best minus second best, from `(latent, num_factors)`."""
    ranked = np.sort(scores, axis=0)
    second = ranked[-2] if len(ranked) > 1 else np.zeros_like(ranked[-1])
    return float((ranked[-1] - second).mean())


def _rows_with_one_factor_fixed(
    factors: np.ndarray, k: int, batch_size: int, rng: np.random.Generator
) -> np.ndarray:
    value = factors[rng.integers(len(factors)), k]
    return rng.choice(np.flatnonzero(factors[:, k] == value), batch_size)


def _partners(
    factor: np.ndarray, rows: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """For each row another one with the same value of the factor."""
    partners = np.empty_like(rows)
    for value in np.unique(factor[rows]):
        here = factor[rows] == value
        partners[here] = rng.choice(np.flatnonzero(factor == value), here.sum())
    return partners
