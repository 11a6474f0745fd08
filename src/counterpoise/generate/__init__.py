"""Generators held to a condition or to physics."""
