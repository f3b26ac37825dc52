"""Trained networks as files for other runtimes, each compared with the network that it was made from."""


class ParityError(Exception):
    """An exported network gives other results than the original, or none that can be compared."""
