"""AdamW with global clipping of the gradient, in place, on float32 masters.

    m ← β₁m + (1 − β₁)g,   v ← β₂v + (1 − β₂)g²,   w ← w − η·(λw + (m/(1 − β₁ᵗ)) / (√(v/(1 − β₂ᵗ)) + ε))

(Loshchilov & Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2, with PyTorch's order: the decay first.)
Clipping: g ← g·min(1, limit/(‖g‖ + 1e-6)), ‖g‖ over all tensors together, as torch.nn.utils.clip_grad_norm_.
Expected error: 1e-6 relative of a step.
"""

import math

from data_plane.device import Array, ArrayModule

BETAS = (0.9, 0.999)
EPSILON = 1e-8


def norm(gradients: dict[str, Array], xp: ArrayModule) -> float:
    """‖g‖ over all; one copy from the device."""
    squares = xp.stack([(gradient * gradient).sum() for gradient in gradients.values()])
    return math.sqrt(float(squares.sum()))


def step(
    weights: dict[str, Array],
    gradients: dict[str, Array],
    moments: dict[str, tuple[Array, Array]],
    *,
    number: int,
    rate: float,
    decay: float,
    factor: float,
    xp: ArrayModule,
) -> None:
    """One step of all weights in place. `number`: from 1. `factor`: what gradients are multiplied by (mean, clipping)."""
    one, two = BETAS
    for name, gradient in gradients.items():
        weight, (first, second) = weights[name], moments[name]
        g = gradient * factor
        first *= one
        first += (1 - one) * g
        second *= two
        second += (1 - two) * (g * g)
        root = xp.sqrt(second)
        root *= 1 / math.sqrt(1 - two**number)
        root += EPSILON
        weight *= 1 - rate * decay
        weight -= rate / (1 - one**number) * first / root
