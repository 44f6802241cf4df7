"""``python -m sigprune`` and ``sigprune``: what is imported here before the signals are handled is little."""

from __future__ import annotations

import sys

from sigprune.cli.interruptions import Interruptions


def main() -> int:
    """Run the command line; an interruption while it is being imported is one line too."""
    interruptions = Interruptions()
    try:
        with interruptions:
            from sigprune.cli.app import main as command_line

            return command_line()
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        return 128 + interruptions.number


if __name__ == "__main__":
    sys.exit(main())
