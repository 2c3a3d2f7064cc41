"""Reinforcement learning: environments whose task is an argument, and policy networks."""
