"""The package behind the commands: tables, training, models, results."""

import sys

if sys.version_info[:2] < (3, 11):  # noqa: UP036  (an older Python gets as far as this)
    _WORDS = "error: Python 3.11 or later is needed, and {} is Python {}.{}; activate the virtual environment"
    sys.exit(_WORDS.format(sys.executable, *sys.version_info[:2]) + " or install a newer Python")

VERSION = "1.9.1"
