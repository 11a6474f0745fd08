"""Samples, classes and concepts taken out of trained classifiers and generators."""
