"""Figures that can be compared."""
