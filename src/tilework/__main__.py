"""``python -m tilework`` is the ``tilework`` command."""

import sys

from tilework.cli import main

sys.exit(main())
