"""Test sets: composed with disturbed plates, written and read."""
