"""train_base.py with the small network, for tests that start processes of their own."""

import sys

import train_base
from support import sabotage

if __name__ == '__main__':
    sabotage.tiny()
    sys.exit(train_base.options.main(__file__, train_base.parse, train_base.train, None))
