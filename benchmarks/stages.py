"""Run the benchmarks of the pure stages, and write their output to docs/benchmarks-stages.md."""

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
    """Run each script in a separate process, one after the other."""
    parts = [
        "# Benchmarks of the stages",
        (
            "Written by `python benchmarks/stages.py`. This is the output of three scripts. Each compares a stage\n"
            "with the least code that can do the same work, in the same run. Absolute times depend on the machine.\n"
            "The ratios are the result. [How it works](how-it-works.md#the-path-of-a-chunk) explains the stages.\n\n"
            "- `wire.py`: the wire decoder, from bytes to records. Its columns are one record per call, 100 records\n"
            "  per call, and the bytes in pieces of 97.\n"
            "- `codecs.py`: the codec, from a record to text. *Rejected* is a record with a lone surrogate, which\n"
            "  msgspec rejects and the standard library then decodes.\n"
            "- `seam.py`: the seam, which removes a repetition of the prefill, and the stop stage. In its second\n"
            "  table a factor of 2 means linear time."
        ),
        (
            f"{date.today().isoformat()}, CPython {platform.python_version()}, {platform.system()}, "
            f"msgspec {version('msgspec')}."
        ),
    ]
    for script in STAGES:
        done = subprocess.run([sys.executable, str(HERE / script)], capture_output=True, text=True, check=True)
        print(done.stdout)
        parts.append(f"## {script}\n\n```\n{done.stdout.rstrip()}\n```")
    page = HERE.parent / "docs" / "benchmarks-stages.md"
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
