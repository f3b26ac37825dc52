"""The speed of networks on this machine."""
