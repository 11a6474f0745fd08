"""Representations from comparing views: contrastive objectives, their negatives, temperatures and heads."""
