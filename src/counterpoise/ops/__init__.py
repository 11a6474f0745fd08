"""Costly maths: similarity without the N×N matrix, exact nearest neighbours; and argument checks for all modules."""
