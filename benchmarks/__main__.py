"""`python -m benchmarks ...` is `evokern bench ...`."""

import sys

from evokern.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
