"""Errors of alpha and foreground with the definitions of the field, and trimaps."""
