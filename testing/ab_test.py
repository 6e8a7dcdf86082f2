"""The live experiment, champion against challenger (not pytest: that is tests/). It is `himari ab`.

    python testing/ab_test.py plan --sharpe 0.2 --accounts 6
    python testing/ab_test.py run runs/live/journal.sqlite --challenger runs/new/bundle --follow
    python testing/ab_test.py report runs/live/ab.sqlite

Both policies size every signal of the runner's journal; a confidence sequence on their paired difference may be looked
at after every bar. docs/runner.md says what it assumes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from himari_rl.cli import main as himari


def main(argv: Sequence[str] | None = None) -> int:
    """`himari ab` with these words."""
    return himari(["ab", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
