"""The loss of a language model from its size, its data and the bits of its weights.

    L(N, D, P) = A N_eff^(−α) + B D^(−β) + E,   N_eff = N (1 − e^(−P/γ))

N parameters of P bits count as N_eff parameters of unlimited precision; D is the number of training tokens
(arXiv 2602.15563, after arXiv 2411.04330 and 2203.15556).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from octavo.base.errors import LawError


@dataclass(frozen=True)
class PrecisionLaw:
    """The constants of the law. Where `a`, `b` and `e` are unknown, only effective sizes can be compared.

    Attributes:
        alpha: exponent of the effective size.
        beta: exponent of the tokens.
        gamma: bits at which a weight has 63 % of its full capacity.
        a: factor of the effective size, in nats per token.
        b: factor of the tokens, in nats per token.
        e: loss that no size and no data remove, in nats per token.
    """

    alpha: float
    beta: float
    gamma: float
    a: float | None = None
    b: float | None = None
    e: float | None = None

    def capacity(self, bits: float) -> float:
        """The fraction of a parameter that counts: 1 − e^(−P/γ)."""
        return -math.expm1(-bits / self.gamma)

    def effective(self, parameters: float, bits: float) -> float:
        """N_eff, in parameters of unlimited precision."""
        return parameters * self.capacity(bits)

    @property
    def predicts_loss(self) -> bool:
        """Whether all constants are known."""
        return None not in (self.a, self.b, self.e)

    def loss(self, parameters: float, tokens: float, bits: float) -> float:
        """Nats per token.

        Raises:
            LawError: A, B or E is unknown.
        """
        if self.a is None or self.b is None or self.e is None:
            raise LawError("this law has no A, B and E", "fit one's own runs, or compare effective sizes")
        return self.a * self.effective(parameters, bits) ** -self.alpha + self.b * tokens**-self.beta + self.e


PUBLISHED = {
    "kmeans": PrecisionLaw(alpha=0.63, beta=0.40, gamma=3.32),
    "uniform": PrecisionLaw(alpha=0.55, beta=0.46, gamma=3.71),
}
"""As published for k-means codebooks and for uniform integers (arXiv 2602.15563); A, B and E are not given there."""


def read_law(name: str) -> PrecisionLaw:
    """Published constants by name (`kmeans`, `uniform`), or those of a JSON file.

    Raises:
        LawError: the file does not hold the constants.
    """
    if name in PUBLISHED:
        return PUBLISHED[name]
    path = Path(name)
    if not path.exists() and path.suffix != ".json":
        raise LawError(f"no constants are called {name!r}", f"give {' or '.join(PUBLISHED)}, or a JSON file")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        constants = {key: float(held[key]) for key in ("alpha", "beta", "gamma")}
        constants |= {key: float(held[key]) for key in ("a", "b", "e") if held.get(key) is not None}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise LawError(
            f"{path} holds no constants ({error})", "write alpha, beta, gamma and, if known, a, b, e"
        ) from None
    unknown = sorted(key for key, value in constants.items() if not math.isfinite(value) or value < 0)
    if unknown or constants["gamma"] == 0:
        raise LawError(f"{path}: {', '.join(unknown or ['gamma'])} must be positive", "check the file")
    return PrecisionLaw(**constants)
