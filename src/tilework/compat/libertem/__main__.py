"""``python -m tilework.compat.libertem program.py`` runs a program that was written for LiberTEM."""

import sys

from tilework.compat.libertem.running import main

main(sys.argv[1:])
