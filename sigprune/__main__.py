"""``python -m sigprune`` is ``sigprune``."""

import sys

from sigprune.cli import main

if __name__ == "__main__":
    sys.exit(main())
