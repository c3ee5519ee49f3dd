"""Mixtures of black and white images whose pixels are independent."""

from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from vaelab._arguments import checked_number, checked_whole
from vaelab._warnings import warn_user
from vaelab.oracle._rows import rows_of


class BernoulliMixture(NamedTuple):
    """A mixture of independent black and white pixels.

    Attributes:
        weights: shape `(k,)`, summing to 1.
        probabilities: of black for each component and pixel, shape `(k, pixels)`.
    """

    weights: np.ndarray
    probabilities: np.ndarray

    def log_likelihood(self, x: ArrayLike) -> np.ndarray:
        """Returns ln p(x) of each example.

        Args:
            x: zeros and ones, shape `(n, ...)`; further axes are flattened.

        Returns:
            Nats, shape `(n,)`.
        """
        flat = rows_of(x, binary=True, like=self.probabilities.shape[1])
        return np.logaddexp.reduce(self._joint(flat), axis=1)

    def _joint(self, flat: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):  # an empty component has weight 0
            black, white = np.log(self.probabilities), np.log1p(-self.probabilities)
            log_weights = np.log(self.weights)
        # 0 times the logarithm of 0 is 0 here, not NaN.
        black, white = (np.maximum(log_p, -1e300) for log_p in (black, white))
        conditional = flat @ black.T + (1 - flat) @ white.T  # (n, k)
        return conditional + log_weights


def independent_bernoulli(x: ArrayLike, *, alpha: float = 1.0) -> BernoulliMixture:
    r"""How often each pixel is black: the least that any model should know.

    .. math::

        p_i = \frac{\alpha + \sum_n x_{ni}}{2 \alpha + N}

    Args:
        x: zeros and ones, shape `(n, ...)`.
        alpha: pseudo-counts of either colour (Laplace's rule is 1).

    Returns:
        A mixture of one component, with `log_likelihood(x)` for any data.

    >>> import vaelab
    >>> digits = vaelab.data.load_digits()
    >>> pixels = independent_bernoulli(digits.train)
    >>> print(f"{pixels.log_likelihood(digits.test).mean():.3f}")
    -24.631
    """
    flat = rows_of(x, binary=True)
    alpha = checked_number("alpha", alpha, above=0)
    probabilities = (alpha + flat.sum(axis=0)) / (2 * alpha + len(flat))
    return BernoulliMixture(np.ones(1), probabilities[None])


def bernoulli_mixture(
    x: ArrayLike,
    k: int,
    seed: int,
    *,
    alpha: float = 1.0,
    tolerance: float = 1e-4,
    rounds: int = 1000,
) -> BernoulliMixture:
    """Fits a mixture of k components by expectation maximisation.

    Warns if it is still improving after the last of the `rounds`.

    Args:
        x: zeros and ones, shape `(n, ...)`.
        k: the number of components, at most n.
        seed: picks the examples that the components start from.
        alpha: pseudo-counts of either colour in each component.
        tolerance: stop when a round gains less than so many nats per example.
        rounds: stop after so many in any case.

    Returns:
        The mixture, with `log_likelihood(x)` for any data.

    Raises:
        ValueError: `k` is out of range.

    >>> import vaelab
    >>> digits = vaelab.data.load_digits()
    >>> mixture = bernoulli_mixture(digits.train, k=10, seed=0)
    >>> print(f"{mixture.log_likelihood(digits.test).mean():.0f}")
    -20

    Source: C. M. Bishop (2006), Pattern Recognition and Machine Learning, 9.3.3.
    """
    flat = rows_of(x, binary=True)
    k, seed = checked_whole("k", k), checked_whole("seed", seed)
    alpha = checked_number("alpha", alpha, above=0)
    tolerance = checked_number("tolerance", tolerance, above=0)
    rounds = checked_whole("rounds", rounds, least=1)
    if not 1 <= k <= len(flat):
        raise ValueError(f"k is {k}: give at least 1 and at most {len(flat)} examples")
    starts = np.random.default_rng(seed).choice(len(flat), k, replace=False)
    mixture = BernoulliMixture(np.full(k, 1 / k), 0.25 + 0.5 * flat[starts])
    better, before = _improved(mixture, flat, alpha)
    for _ in range(rounds):
        mixture = better
        better, evidence = _improved(mixture, flat, alpha)
        if evidence - before < tolerance:
            return mixture
        before = evidence
    warn_user(
        f"the mixture still gains more than {tolerance:g} nats a round after {rounds} "
        "rounds: give more rounds or a larger tolerance",
        RuntimeWarning,
    )
    return mixture


def _improved(
    mixture: BernoulliMixture, flat: np.ndarray, alpha: float
) -> tuple[BernoulliMixture, float]:
    """Returns a better mixture, and the mean ln p(x) of the one that was given."""
    joint = mixture._joint(flat)
    evidence = np.logaddexp.reduce(joint, axis=1, keepdims=True)
    responsibility = np.exp(joint - evidence)  # (n, k)
    count = responsibility.sum(axis=0)
    probabilities = (alpha + responsibility.T @ flat) / (2 * alpha + count)[:, None]
    return BernoulliMixture(count / len(flat), probabilities), evidence.mean()
