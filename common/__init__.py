"""What every room uses: files, signals, devices. Imports nothing else of the toolkit."""
