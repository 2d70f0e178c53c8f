"""What is written to disk: models, checkpoints, and the lock that keeps a second run away."""
