"""Helpers of the tests: cases, stand-ins, saboteurs."""
