"""Maths with a cost: similarity without the N×N matrix, exact neighbours, and the checks that every part shares."""
