"""Masks of trees of parameters, and their division into two parts: adapting leaves and the rest."""

import re
from typing import Any

import jax
from jaxtyping import PyTree

from maml._contracts import check_mask, is_inexact


def mask_by_path(params: PyTree, pattern: str) -> PyTree[bool]:
    """A tree of bools like `params`: True where the path matches the regular expression.

    Args:
        params: Tree of parameters.
        pattern: Regular expression, searched for in paths such as `layers/0/kernel`.

    Returns:
        The mask, a tree of bools.

    Raises:
        ValueError: no path matches, as for a misspelt pattern, or the pattern is empty or no
            regular expression.

    >>> mask_by_path({"body": {"w": 1.0}, "head": {"w": 2.0, "b": 3.0}}, "^head/")
    {'body': {'w': False}, 'head': {'b': True, 'w': True}}
    """
    if not isinstance(pattern, str) or not pattern:
        raise ValueError(
            f"the pattern must be a string that is not empty; got {pattern!r}: {_paths(params)}"
        )
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"{pattern!r} is no regular expression, {error}: {_paths(params)}"
        ) from error
    mask = jax.tree.map_with_path(
        lambda path, _: re.search(pattern, _name(path)) is not None, params
    )
    if not any(jax.tree.leaves(mask)):
        raise ValueError(f"{pattern!r} matches none of {_paths(params)}")
    return mask


def _paths(params: PyTree) -> str:
    return f"the paths {', '.join(by_path(params))}"


def by_path(params: PyTree) -> dict[str, Any]:
    """The leaves of a tree, by paths such as `layers/0/kernel`.

    >>> by_path({"body": {"w": 1.0}, "head": [2.0]})
    {'body/w': 1.0, 'head/0': 2.0}
    """
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def complement(mask: PyTree[bool]) -> PyTree[bool]:
    """The complement of a mask, True where the mask is False.

    >>> complement({"body": False, "head": True})
    {'body': True, 'head': False}
    """
    check_mask(mask, some=False)
    return jax.tree.map(lambda chosen: not chosen, mask)


def floating(params: PyTree) -> PyTree[bool]:
    """The mask of leaves with a derivative, False at counters, random keys and masks.

    >>> floating({"w": 1.0, "count": 3})
    {'count': False, 'w': True}
    """
    return jax.tree.map(is_inexact, params)


def partition(params: PyTree, mask: PyTree[bool]) -> tuple[PyTree, PyTree]:
    """The leaves where the mask is True, and the others, with None in the place of absent leaves.

    None in the parameters is not a leaf, as everywhere in JAX, and is None in both results.

    Raises:
        ValueError: the mask is not a tree of bools with the structure of the parameters.

    >>> partition({"body": 1.0, "head": 2.0}, {"body": False, "head": True})
    ({'body': None, 'head': 2.0}, {'body': 1.0, 'head': None})
    """
    check_mask(mask, params, some=False)
    chosen = jax.tree.map(lambda keep, leaf: leaf if keep else None, mask, params)
    others = jax.tree.map(lambda keep, leaf: None if keep else leaf, mask, params)
    return chosen, others


def combine(chosen: PyTree, others: PyTree) -> PyTree:
    """The inverse of `partition`.

    Raises:
        ValueError: the structures of the two trees differ.

    >>> combine({"body": None, "head": 2.0}, {"body": 1.0, "head": None})
    {'body': 1.0, 'head': 2.0}
    """
    structures = [jax.tree.structure(part, is_leaf=_is_none) for part in (chosen, others)]
    if structures[0] != structures[1]:
        raise ValueError(f"two parts of one tree are wanted; got {structures[0]}, {structures[1]}")
    first, second = map(by_path, (chosen, others))
    if both := first.keys() & second.keys():
        raise ValueError(f"two parts of one tree are wanted; got {sorted(both)} in both")
    return jax.tree.map(lambda a, b: b if a is None else a, chosen, others, is_leaf=_is_none)


def _is_none(leaf: Any) -> bool:
    return leaf is None
