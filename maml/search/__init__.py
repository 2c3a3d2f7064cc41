"""Architecture search: policies over tokens, and strategies that ask for architectures."""

from maml.search.space import Space

__all__ = ["Space"]
