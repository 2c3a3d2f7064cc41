"""Masks of trees of parameters, and the partition of a tree into adapting and other leaves."""

import re
from typing import Any

import jax
from jaxtyping import PyTree

from maml._contracts import check_mask
from maml._leaves import is_inexact


def mask_by_path(params: PyTree, pattern: str) -> PyTree[bool]:
    """A tree of bools like `params`, True where the path matches the regular expression.

    Args:
        params: Tree of parameters.
        pattern: Regular expression, searched for in paths such as `layers/0/kernel`; `^layers/0/`
            selects the paths with this prefix.

    Returns:
        The mask, a tree of bools.

    Raises:
        ValueError: no path matches, or the pattern is empty or not a regular expression.

    >>> mask_by_path({"body": {"w": 1.0}, "head": {"w": 2.0, "b": 3.0}}, "^head/")
    {'body': {'w': False}, 'head': {'b': True, 'w': True}}
    """
    if not isinstance(pattern, str) or not pattern:
        raise ValueError(
            "the pattern must be a string that is not empty; got"
            f" {pattern!r} for {_list_paths(params)}"
        )
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"the pattern must be a regular expression; got {pattern!r} for {_list_paths(params)}:"
            f" {error}"
        ) from error
    mask = jax.tree.map_with_path(
        lambda path, _: re.search(pattern, _name(path)) is not None, params
    )
    if not any(jax.tree.leaves(mask)):
        raise ValueError(f"{pattern!r} matches none of {_list_paths(params)}")
    return mask


def _list_paths(params: PyTree) -> str:
    """The paths of all leaves, for an error."""
    return f"the paths {', '.join(leaves_by_path(params))}"


def leaves_by_path(params: PyTree) -> dict[str, Any]:
    """A dictionary from paths such as `layers/0/kernel` to the leaves of a tree.

    >>> leaves_by_path({"body": {"w": 1.0}, "head": [2.0]})
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
    return jax.tree.map(lambda selected: not selected, mask)


def floating_mask(params: PyTree) -> PyTree[bool]:
    """The mask of leaves with a derivative, which is False at counters, random keys and masks.

    >>> floating_mask({"w": 1.0, "count": 3})
    {'count': False, 'w': True}
    """
    return jax.tree.map(is_inexact, params)


def partition(params: PyTree, mask: PyTree[bool]) -> tuple[PyTree, PyTree]:
    """The leaves where the mask is True, and the other leaves; absent leaves are None.

    A None in the parameters is not a leaf, as always in JAX, and is None in both results.

    Args:
        params: Tree to divide.
        mask: Tree of bools like `params`.

    Returns:
        Two trees with the structure of `params`, with None in place of absent leaves.

    Raises:
        ValueError: the mask is not a tree of bools with the structure of the parameters.

    >>> partition({"body": 1.0, "head": 2.0}, {"body": False, "head": True})
    ({'body': None, 'head': 2.0}, {'body': 1.0, 'head': None})
    """
    check_mask(mask, params, some=False)
    selected = jax.tree.map(lambda keep, leaf: leaf if keep else None, mask, params)
    others = jax.tree.map(lambda keep, leaf: None if keep else leaf, mask, params)
    return selected, others


def combine(selected: PyTree, others: PyTree) -> PyTree:
    """The tree of the leaves of both arguments, the inverse of `partition`.

    Args:
        selected: First part, with None in place of leaves of the second.
        others: Second part, with None in place of leaves of the first.

    Returns:
        The tree with all leaves.

    Raises:
        ValueError: the structures of the two trees differ, or both have the same leaf.

    >>> combine({"body": None, "head": 2.0}, {"body": 1.0, "head": None})
    {'body': 1.0, 'head': 2.0}
    """
    structures = [jax.tree.structure(part, is_leaf=_is_none) for part in (selected, others)]
    if structures[0] != structures[1]:
        raise ValueError(
            "combine needs two parts of one tree; got the structures"
            f" {structures[0]} and {structures[1]}"
        )
    first, second = map(leaves_by_path, (selected, others))
    if shared := first.keys() & second.keys():
        raise ValueError(f"combine needs two parts of one tree; got {sorted(shared)} in both")
    return jax.tree.map(lambda a, b: b if a is None else a, selected, others, is_leaf=_is_none)


def _is_none(leaf: Any) -> bool:
    return leaf is None
