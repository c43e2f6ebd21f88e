"""`python -m vocable` is the `vocable` command."""

import sys

from vocable.cli import main

sys.exit(main())
