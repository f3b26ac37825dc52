"""Trained networks in the files that other runtimes load, each proved against the network that it comes from."""
