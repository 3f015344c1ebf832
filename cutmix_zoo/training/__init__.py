"""Training: recipes, the loop, checkpoints and the folder of a run."""
