"""AdamW with global clipping of the gradient, in place, on float32 masters.

    m ← β₁m + (1 − β₁)g,   v ← β₂v + (1 − β₂)g²,   w ← w − η·(λw + (m/(1 − β₁ᵗ)) / (√(v/(1 − β₂ᵗ)) + ε))

(Loshchilov & Hutter, "Decoupled Weight Decay Regularization", 2019, algorithm 2, with PyTorch's order: the decay first.)
Clipping: g ← g·min(1, limit/(‖g‖ + 1e-6)), ‖g‖ over all tensors together, as torch.nn.utils.clip_grad_norm_.
Expected error: 1e-6 relative of a step. In CUDA one kernel makes the whole step of a tensor: four arrays are read, three written.
"""

import math

from dihedral.data_plane.device import Array, ArrayModule
from dihedral.data_plane.kernels.cuda import fused, grid_of, kernel, launch, pack_of

SOURCE = r"""
extern "C" __global__ void step(
    float* weight, const float* gradient, float* first, float* second, long long size,
    float factor, float one, float rest_one, float two, float rest_two, float kept, float rate, float root, float epsilon
) {
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i >= size / N) return;
    const Pack<float> gradients = pack(gradient, i);
    Pack<float> w = pack(weight, i), m = pack(first, i), v = pack(second, i);
    for (int j = 0; j < N; j++) {
        const float g = gradients.value[j] * factor;
        m.value[j] = m.value[j] * one + rest_one * g;
        v.value[j] = v.value[j] * two + rest_two * (g * g);
        w.value[j] = w.value[j] * kept - rate * m.value[j] / (sqrtf(v.value[j]) * root + epsilon);
    }
    pack(weight, i) = w;
    pack(first, i) = m;
    pack(second, i) = v;
}
"""

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
    """Updates all weights in place by one step. `number`: from 1. `factor`: what gradients are multiplied by (mean, clipping)."""
    one, two = BETAS
    kept, root, rate = 1 - rate * decay, 1 / math.sqrt(1 - two**number), rate / (1 - one**number)
    for name, gradient in gradients.items():
        weight, (first, second) = weights[name], moments[name]
        if fused(xp):
            size, pack = weight.size, pack_of(weight.size, weight)
            numbers = (factor, one, 1 - one, two, 1 - two, kept, rate, root, EPSILON)
            run = kernel(xp, SOURCE, "step", "float32", pack)
            launch(run, *grid_of(size, pack), weight, gradient, first, second, size, *numbers)
            continue
        g = gradient * factor
        first *= one
        first += (1 - one) * g
        second *= two
        second += (1 - two) * (g * g)
        below = xp.sqrt(second)
        below *= root
        below += EPSILON
        weight *= kept
        weight -= rate * first / below
