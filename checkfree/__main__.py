"""``python -m checkfree`` is ``checkfree``."""

import signal
import sys

from checkfree.cli import main

code = main()
signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is done is done
sys.exit(code)
