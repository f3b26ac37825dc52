"""Trained networks in the files that other runtimes load, each proved against the network that it comes from."""


class ParityError(Exception):
    """An exported network that gives other results than the one that it was made from, or none that can be compared."""
