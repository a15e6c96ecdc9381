"""The command `aprefill`, also `python -m aprefill`. Without the extra `cli`, it prints how to install the extra."""

from __future__ import annotations

import sys

#: The command line was wrong, or the extra `cli` is missing.
EXIT_USAGE = 2
#: Ended by Ctrl-C. By the convention of shells: 128 + SIGINT.
EXIT_INTERRUPTED = 130


def main() -> int:
    """Run the command line and return the exit code."""
    try:
        # The import is inside the `try`: click may be missing, and Ctrl-C may come while modules load.
        from .cli import main as run

        return run()
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] != "click":
            raise
        print("aprefill: the command line is an extra: pip install 'aprefill[cli]'", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
