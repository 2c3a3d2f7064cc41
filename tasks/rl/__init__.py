"""Reinforcement learning: environments whose task is an argument, policies, and their losses."""
