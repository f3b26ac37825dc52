"""The sections of gpu.py: each function is one, and writes its rows to the `Bench` that it is given."""
