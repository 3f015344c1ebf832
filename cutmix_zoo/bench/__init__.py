"""Ours against the peers in one run: ratios as text and JSON."""
