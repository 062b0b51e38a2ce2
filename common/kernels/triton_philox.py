"""The noise of `common.diffusion.rng` inside a Triton kernel."""

import triton
import triton.language as tl


@triton.jit
def random_words(volume, window, draw, block, low, high):
    """Four random words per counter; bit for bit those of `common.kernels.reference.philox`.

    Args: the counter words and the key words, scalars but for
        block: (M,).
    """
    d = block.to(tl.uint32)
    zero = d ^ d
    a = zero + volume.to(tl.uint32)
    b = zero + window.to(tl.uint32)
    c = zero + draw.to(tl.uint32)
    return tl.philox_impl(a, b, c, d, zero + low.to(tl.uint32), zero + high.to(tl.uint32))


@triton.jit
def box_muller(word_r, word_phi):
    """Two float32 normals per pair of words, computed in float64 as the reference does."""
    uniform = (word_r.to(tl.float64) + 0.5) * 2.3283064365386963e-10  # 2^-32
    radius = tl.sqrt(-2.0 * tl.log(uniform))
    angle = (word_phi.to(tl.float64) + 0.5) * 1.4629180792671596e-09  # 2 pi 2^-32
    return (radius * tl.cos(angle)).to(tl.float32), (radius * tl.sin(angle)).to(tl.float32)


@triton.jit
def normals(keys, draw, block):
    """Normals of the elements 4 block .. 4 block + 3, in order.

    Args:
        keys: pointer to the four int64 words of a sample, see `reference.normals`.
        draw: step << 8 | purpose, a scalar.
        block: (M,) consecutive block numbers.

    Returns:
        (4 M,) float32.
    """
    volume, window = tl.load(keys), tl.load(keys + 1)
    low, high = tl.load(keys + 2), tl.load(keys + 3)
    a, b, c, d = random_words(volume, window, draw, block, low, high)
    z_0, z_1 = box_muller(a, b)
    z_2, z_3 = box_muller(c, d)
    return tl.interleave(tl.interleave(z_0, z_2), tl.interleave(z_1, z_3))
