"""Spaces of architectures, and what their architectures are worth."""
