"""A batch-normalised linear map with explicit statistics, as a flax module."""

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from maml._checks import check_flags, check_number
from maml.batch_norm import Reference, moments, parse_reference
from maml.rows import upcast
from tasks._checks import check_dtype


class BatchNorm(nn.Module):
    """A batch-normalised linear map  (x W - mean) / sqrt(var + epsilon) + bias.

    No scale is learned. The linear map has no bias, since the subtraction of the mean would cancel
    it. Mean and (biased) variance are those of all rows, of the first `reference` rows, or of the
    weighted rows of the call, or else the running averages in the collection `batch_stats`. The
    module does not average: if `track` is True and `batch_stats` is mutable, it stores the
    statistics of the call there.

    If x is narrower than x W, the statistics are computed from x, as mean(x) W and
    diag(W' cov(x) W), and W is scaled instead of x W. In the first layer of a network this avoids
    most passes over its largest activations, also in the derivatives.

    Attributes:
        track: Whether the module has running averages.
        epsilon: Number added to the variance; the default is that of MAML's code.
        dtype: Type in which x W is computed and the result is returned. None: the type of x and W.
            The statistics are computed in float32 at least.

    Ioffe, Szegedy: Batch normalization (ICML 2015), https://arxiv.org/abs/1502.03167
    """

    track: bool = False
    epsilon: float = 1e-3
    dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flags(track=self.track)
        check_number(self.epsilon, "epsilon", least=0)
        check_dtype(self.dtype)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "n *rest inputs"],
        kernel: Float[Array, "inputs features"] | None = None,
        *,
        reference: Reference = None,
        running: bool = False,
    ) -> Float[Array, "n *rest features"]:
        """Normalises each channel, the last axis, of x W.

        Args:
            x: Inputs of the linear map, `[n, ..., inputs]`, or patches for a convolution.
            kernel: Matrix W, `[inputs, features]`. None: the identity, if x is already the product.
            reference: Number of leading rows whose statistics are used, or the weight of each row,
                `[n]`. A row of weight 0 is normalised as well, and must be finite. None: all rows.
            running: Whether the running averages are used instead of the statistics of rows.

        Returns:
            The normalised x W plus bias, `[n, ..., features]`.

        Raises:
            ValueError: there are no running averages, no reference rows or fewer rows than
                `reference`, or not one weight for each row.
        """
        if running and not self.track:
            raise ValueError("running averages need track=True; got running=True, track=False")
        rows, weights = parse_reference(reference, x.shape[0])
        if kernel is not None and (jnp.ndim(kernel) != 2 or kernel.shape[0] != x.shape[-1]):
            raise ValueError(
                f"the kernel must be [{x.shape[-1]}, features]; got {list(jnp.shape(kernel))}"
            )
        inputs, features = (x.shape[-1],) * 2 if kernel is None else kernel.shape
        bias = self.param("bias", nn.initializers.zeros_init(), (features,))
        narrow = inputs < features
        dtype = self.dtype or (x.dtype if kernel is None else jnp.result_type(x, kernel))

        def product(kernel: Array | None) -> Array:
            return x.astype(dtype) if kernel is None else x.astype(dtype) @ kernel.astype(dtype)

        source = x if narrow else product(kernel)
        exact = upcast(source)
        mean, var = moments(exact[:rows], weights, covariance=narrow)
        if kernel is not None and narrow:
            mean, var = mean @ kernel, jnp.sum(kernel * (var @ kernel), axis=0)
        if self.track:
            averages = self.variable(
                "batch_stats", "averages", lambda: (jnp.zeros(features), jnp.ones(features))
            )
            if running:
                mean, var = averages.value
            elif self.is_mutable_collection("batch_stats") and not self.is_initializing():
                averages.value = (mean, var)
        scale = lax.rsqrt(var + self.epsilon)
        if kernel is not None and narrow:
            normalised = product(kernel * scale) + (bias - mean * scale)
        else:
            normalised = (exact - mean) * scale + bias
        return normalised.astype(dtype)
