"""Cross-entropy of the model's own tokens: the cold start's loss."""

from jaxtyping import Array, Float

ZERO_VARIANCE = "gradient"  # it reads no advantage at all


def nll(logp_NL: Float[Array, "N L"]) -> tuple[Float[Array, "N L"], dict]:
    """Return -log p per token; the mask (expert's tokens only) and the mean are `reduce.py`'s."""
    return -logp_NL, {}
