"""Spaces of architectures, and what an architecture of them is worth after adaptation."""
