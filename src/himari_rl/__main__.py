"""`python -m himari_rl ...` is `himari ...`."""

import sys

from himari_rl.cli import main

sys.exit(main())
