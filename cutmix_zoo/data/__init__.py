"""Datasets, keyed sampling and loaders."""
