"""Found by processes that have taken over ``sys.path`` from one where `tilework.compat.libertem` is installed.

It installs it in this one, and gives way to what is found then.
"""

import importlib
import sys

from tilework.compat.libertem import install

del sys.modules[__name__]
install()
importlib.import_module(__name__)
