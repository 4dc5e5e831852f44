"""`python -m zoo` is the `txzoo` command."""

import sys

from zoo.cli import main

sys.exit(main())
