"""Representations and training for agents that act, from robots to language models with preferences."""
