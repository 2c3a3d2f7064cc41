"""Search spaces of architectures, and the rewards of their architectures."""
