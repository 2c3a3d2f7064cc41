"""Random changes of images that keep their class, for meta-training."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from maml._checks import check_number
from maml.types import RandomKey


def random_affine(
    *, shift: float = 2.0, scale: float = 0.1, shear: float = 0.1, degrees: float = 10.0
) -> Callable[[RandomKey, Float[Array, "h w c"]], Float[Array, "h w c"]]:
    """A random affine map of an image about its centre, with bilinear interpolation.

        pixel(x) = image(A (x - centre) + centre + t),  A = rotation shear diag(scales)

    All numbers are drawn uniformly and independently for each image. Positions outside the image
    have the value of the nearest pixel.

    Args:
        shift: Largest shift t along each axis, in pixels.
        scale: Largest change of the scale of each axis, as a fraction < 1.
        shear: Largest shear, the tangent of its angle.
        degrees: Largest rotation, in degrees.

    Returns:
        The function `augment(key, image) -> image`, with images `[height, width, channel]`, for
        `maml.few_shot`.

    Raises:
        ValueError: a number is negative, or `scale` is not below 1.
    """
    for name, value in {"shift": shift, "shear": shear, "degrees": degrees}.items():
        check_number(value, name, least=0.0)
    check_number(scale, "scale", least=0.0, below=1.0)

    def augment(key: RandomKey, image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        draws = jax.random.uniform(key, (6,), minval=-1.0, maxval=1.0)
        angle, slant = jnp.deg2rad(degrees) * draws[0], shear * draws[1]
        turned = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
        slanted = jnp.eye(2).at[0, 1].set(slant)
        matrix = turned @ slanted @ jnp.diag(1 + scale * draws[2:4])
        sides = image.shape[:2]
        centre = (jnp.array(sides, jnp.float32)[:, None] - 1) / 2
        positions = jnp.indices(sides).reshape(2, -1) - centre
        sources = matrix @ positions + centre + shift * draws[4:, None]

        def sample(channel: Float[Array, "h w"]) -> Float[Array, "h w"]:
            return map_coordinates(channel, list(sources), 1, mode="nearest").reshape(sides)

        return jax.vmap(sample, in_axes=2, out_axes=2)(image)

    return augment
