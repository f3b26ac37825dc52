"""The way from picture files to matte files."""
