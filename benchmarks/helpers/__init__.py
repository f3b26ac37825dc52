"""What the benchmarks share. No module here is a command."""
