"""Measure what the plugin for LLM adds to the start time of `llm`: the median difference with and without the plugin.

The runs with and without the plugin alternate. Run it in an environment with aprefill[llm] and llm-echo:

python benchmarks/llm_start.py [pairs]
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

#: The arguments of `llm`. Each command runs in a separate process.
COMMANDS = (["--help"], ["-m", "echo", "hi"])


def once(words: list[str], load: str, home: str) -> tuple[float, float]:
    """Run one process. Return its wall time and its CPU time in milliseconds."""
    env = {**os.environ, "LLM_USER_PATH": home, "LLM_LOAD_PLUGINS": load}
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "llm", *words], env=env, check=True, capture_output=True)
    ended, now = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return (ended - begun) * 1000, cpu * 1000


def main(pairs: int) -> None:
    with tempfile.TemporaryDirectory() as home:
        for words in COMMANDS:
            loads = ["llm-echo", "llm-echo,aprefill"]
            for load in loads:
                once(words, load, home)
            times: dict[str, list[tuple[float, float]]] = {load: [] for load in loads}
            for _ in range(pairs):
                for load in loads:
                    times[load].append(once(words, load, home))
                loads.reverse()
            without, with_it = times["llm-echo"], times["llm-echo,aprefill"]
            for i, kind in enumerate(("wall", "CPU")):
                added = statistics.median(b[i] - a[i] for a, b in zip(without, with_it, strict=True))
                base = statistics.median(one[i] for one in without)
                print(f"llm {' '.join(words)}: {base:.0f} ms of {kind} time without, {added:+.1f} ms with it")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 25)
