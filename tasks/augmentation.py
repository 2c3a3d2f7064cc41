"""Random changes of images that keep their class, for meta-training."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from maml._checks import check_count, check_number
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


def random_photograph(
    *, padding: int = 4, jitter: float = 0.4, cutout: int = 0
) -> Callable[[RandomKey, Float[Array, "h w c"]], Float[Array, "h w c"]]:
    """A random crop, mirror image and change of colours of a photograph, as for MetaOptNet.

    The image is padded by copies of its edge and cut at a random place to its size before, mirrored
    with probability 1/2, and then changed in brightness, contrast and saturation, each by its own
    factor f, uniform in [1 - jitter, 1 + jitter]:

        f x,   f x + (1 - f) mean(grey(x)),   f x + (1 - f) grey(x).

    Grey is 0.299 red + 0.587 green + 0.114 blue; with other channels than three, it is their mean.
    After each change, values are clipped to [0, 1].

    Last, a square is cut out whose centre is any pixel of the image, so that a part of it may lie
    outside. It gets the mean colour of the image; DeVries and Taylor take that of the data set.

    Args:
        padding: Number of pixels of padding on each side, >= 0.
        jitter: Largest change of a factor, >= 0 and < 1.
        cutout: Side of the square that is cut out, in pixels, >= 0 and at most that of the image; 0
            cuts nothing out.

    Returns:
        The function `augment(key, image) -> image`, with images `[height, width, channel]` between
        0 and 1, for `maml.few_shot`.

    Raises:
        ValueError: the padding or the cutout is no integer >= 0, or the jitter is outside [0, 1);
            or (when augmenting) the cutout is larger than the image.

    Lee et al.: Meta-learning with differentiable convex optimization (2019),
    https://arxiv.org/abs/1904.03758
    DeVries and Taylor: Improved regularization of convolutional neural networks with cutout (2017),
    https://arxiv.org/abs/1708.04552
    """
    check_count(padding, least=0, of="pixels of padding")
    check_count(cutout, least=0, of="pixels of the side of a cutout")
    check_number(jitter, "jitter", least=0.0, below=1.0)

    def augment(key: RandomKey, image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        crop_key, mirror_key, colour_key = jax.random.split(key, 3)
        padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode="edge")
        row, column = jax.random.randint(crop_key, (2,), 0, 2 * padding + 1)
        image = jax.lax.dynamic_slice(padded, (row, column, 0), image.shape)
        image = jnp.where(jax.random.bernoulli(mirror_key), image[:, ::-1], image)
        factors = jax.random.uniform(colour_key, (3,), minval=1 - jitter, maxval=1 + jitter)
        channels = image.shape[2]
        parts = (0.299, 0.587, 0.114) if channels == 3 else channels * (1 / channels,)

        def grey(image: Float[Array, "h w c"]) -> Float[Array, "h w 1"]:
            return (image * jnp.array(parts)).sum(axis=2, keepdims=True)

        centres = jnp.zeros_like, lambda image: grey(image).mean(), grey
        for factor, centre in zip(factors, centres, strict=True):
            image = jnp.clip(factor * image + (1 - factor) * centre(image), 0.0, 1.0)
        # Not 0 to 2, which give the keys of the split above.
        return cut_out(jax.random.fold_in(key, 3), image) if cutout else image

    def cut_out(key: RandomKey, image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        sides = image.shape[:2]
        if cutout > min(sides):
            raise ValueError(f"a cutout must fit into an image of {sides}; got a side of {cutout}")
        first = jax.random.randint(key, (2,), 0, jnp.array(sides)) - cutout // 2
        rows, columns = (jnp.arange(side) - start for side, start in zip(sides, first, strict=True))
        inside = ((rows >= 0) & (rows < cutout))[:, None] & (columns >= 0) & (columns < cutout)
        return jnp.where(inside[:, :, None], image.mean((0, 1)), image)

    return augment
