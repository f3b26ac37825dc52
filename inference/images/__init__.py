"""From picture files to matte files."""
