"""Evaluation: what a network's predictions are worth."""
