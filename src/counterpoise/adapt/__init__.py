"""Trained networks on shifted data: another domain, other classes, no source data, a single test scene."""
