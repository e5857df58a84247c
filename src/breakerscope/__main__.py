"""`python -m breakerscope` is the same as the command `breakerscope`."""

import sys

from breakerscope.cli import main

if __name__ == "__main__":
    sys.exit(main())
