"""Weights for the next step."""
