"""The mirror of a run in a store: what outlives the machine and its disk.

A run's folder in the store holds the same records as the one on the disk, and their files under names with the sha256
of their content. So nothing is ever overwritten but records, each whole by its own sha256; a file that is there is
whole; and a record is put there after all that it names.
"""
