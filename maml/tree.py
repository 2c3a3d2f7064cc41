"""Trees of parameters in two parts: the one that adapts, and the rest."""

import re
from typing import Any

import jax
from jaxtyping import PyTree


def mask_by_path(params: PyTree, pattern: str) -> PyTree[bool]:
    """A tree of bools like `params`: True where the path matches the regular expression.

    Args:
        params: any tree.
        pattern: searched for in paths such as `layers/0/kernel`.

    Raises:
        ValueError: no path matches, so that a misspelt pattern is not a silent no-op.

    >>> mask_by_path({"body": {"w": 1.0}, "head": {"w": 2.0, "b": 3.0}}, "^head/")
    {'body': {'w': False}, 'head': {'b': True, 'w': True}}
    """
    mask = jax.tree.map_with_path(
        lambda path, _: re.search(pattern, _name(path)) is not None, params
    )
    if not any(jax.tree.leaves(mask)):
        raise ValueError(f"{pattern!r} matches none of the paths {', '.join(by_path(params))}")
    return mask


def by_path(params: PyTree) -> dict[str, Any]:
    """The leaves by paths such as `layers/0/kernel`.

    >>> by_path({"body": {"w": 1.0}, "head": [2.0]})
    {'body/w': 1.0, 'head/0': 2.0}
    """
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def complement(mask: PyTree[bool]) -> PyTree[bool]:
    """True where the mask is False.

    >>> complement({"body": False, "head": True})
    {'body': True, 'head': False}
    """
    return jax.tree.map(lambda chosen: not chosen, mask)


def partition(params: PyTree, mask: PyTree[bool]) -> tuple[PyTree, PyTree]:
    """The leaves where the mask is True, and the others; None stands where a leaf is absent.

    Raises:
        ValueError: the mask has another structure than the parameters.

    >>> partition({"body": 1.0, "head": 2.0}, {"body": False, "head": True})
    ({'body': None, 'head': 2.0}, {'body': 1.0, 'head': None})
    """
    got, wanted = jax.tree.structure(mask), jax.tree.structure(params)
    if got != wanted:
        raise ValueError(f"the mask has the structure {got}; the parameters have {wanted}")
    chosen = jax.tree.map(lambda keep, leaf: leaf if keep else None, mask, params)
    others = jax.tree.map(lambda keep, leaf: None if keep else leaf, mask, params)
    return chosen, others


def combine(chosen: PyTree, others: PyTree) -> PyTree:
    """The inverse of `partition`.

    >>> combine({"body": None, "head": 2.0}, {"body": 1.0, "head": None})
    {'body': 1.0, 'head': 2.0}
    """
    return jax.tree.map(
        lambda a, b: b if a is None else a, chosen, others, is_leaf=lambda leaf: leaf is None
    )
