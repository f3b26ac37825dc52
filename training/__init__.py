"""Training that never learns what a matte is: one loop, its state, checkpoints, logs and devices."""
