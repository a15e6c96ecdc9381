"""The command `aprefill`, also `python -m aprefill`. Works, if only to say what to install, without the extra `cli`."""

from __future__ import annotations

import sys

#: What the caller did wrong.
EXIT_USAGE = 2
#: Ended by Ctrl-C, as shells count it: 128 + SIGINT.
EXIT_INTERRUPTED = 130


def main() -> int:
    """Run the command line; the exit code."""
    try:
        # click is the extra `cli`; inside the `try`, because Ctrl-C may come while modules load
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
