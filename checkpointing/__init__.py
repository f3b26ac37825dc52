"""Checkpoints: how they are written, found, verified, kept, resumed from, averaged and converted."""
