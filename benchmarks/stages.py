"""Runs the benchmarks of the pure stages and writes what they print into docs/benchmarks-stages.md."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
STAGES = ("wire.py", "codecs.py", "seam.py")


def main() -> None:
    """Each stage in a process of its own, one after the other."""
    parts = [
        "# Benchmarks of the stages",
        (
            "Written by `python benchmarks/stages.py`: what the three scripts print, each compared with the least that "
            "could do the same work in the same run. Absolute times are one machine's; the ratios are the result."
        ),
        f"{date.today().isoformat()}, CPython {platform.python_version()}, {platform.system()}, msgspec {version('msgspec')}.",
    ]
    for script in STAGES:
        done = subprocess.run([sys.executable, str(HERE / script)], capture_output=True, text=True, check=True)
        print(done.stdout)
        parts.append(f"## {script}\n\n```\n{done.stdout.rstrip()}\n```")
    page = HERE.parent / "docs" / "benchmarks-stages.md"
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
