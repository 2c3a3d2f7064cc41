"""Selection of shapes of which no two look alike."""

import numpy as np
from jaxtyping import Float32

LOOKALIKE = 0.85  # correlation above which two shapes count as one

STRETCHES = (0.86, 0.93, 1.08, 1.16)  # changes of proportion that do not change a character


def unit_vectors(
    pixels: Float32[np.ndarray, "*shapes SIDE SIDE"],
) -> Float32[np.ndarray, "*shapes pixels"]:
    """Unit vectors of shapes, such that their inner product is the correlation of the pixels."""
    flat = pixels.reshape(*pixels.shape[:-2], -1)
    centred = flat - flat.mean(-1, keepdims=True)
    return centred / np.linalg.norm(centred, axis=-1, keepdims=True)


def correlate(
    kept: Float32[np.ndarray, "kept SIDE SIDE"], new: Float32[np.ndarray, "new SIDE SIDE"]
) -> Float32[np.ndarray, "kept new"]:
    """Correlation of each kept and each new blurred shape, at the best stretch of the new one."""
    side = new.shape[-1]
    line, middle = np.arange(side), (side - 1) / 2
    stretched = [new]
    for stretch in STRETCHES:
        source = middle + (line - middle) / stretch
        linear = np.maximum(0, 1 - np.abs(source[:, None] - line)).astype(np.float32)
        stretched += [linear @ new, new @ linear.T]
    vectors = unit_vectors(kept)
    return np.max([vectors @ unit_vectors(shapes).T for shapes in stretched], axis=0)


def select_distinct(shapes: Float32[np.ndarray, "shape SIDE SIDE"]) -> list[int]:
    """Indices of the blurred shapes that do not resemble an earlier shape that is kept.

    They are compared in blocks, since many small products are slow if processes share the cores.
    """
    kept = [0]
    for first in range(1, len(shapes), 256):
        block = shapes[first : first + 256]
        rivals = np.array([*kept, *range(first, first + len(block))])
        is_kept = np.arange(len(rivals)) < len(kept)
        for column_index, column in enumerate(correlate(shapes[rivals], block).T, len(kept)):
            is_kept[column_index] = column[is_kept].max() < LOOKALIKE
        kept = rivals[is_kept].tolist()
    return kept
