"""Weights from elsewhere, and to elsewhere."""
