"""Shapes are enforced, and every test may ask for float64."""

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook(["maml", "tasks"], "beartype.beartype")
jax.config.update("jax_platforms", "cpu")


@pytest.fixture
def x64():
    """Float64, where derivatives are compared to rounding."""
    with jax.enable_x64(True):
        yield
