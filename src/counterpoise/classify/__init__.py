"""Classifiers from imperfect labels: noisy, long-tailed, few, partly foreign, or unfair to a subgroup."""
