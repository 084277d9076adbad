"""``python -m fuzz TARGET [--runs N]``: fuzz one reader, guided by the code it reaches (libFuzzer, through atheris).

An input that lets anything but our own error out, or takes over 20 s or 512 MiB of the whole instrumented process, is
written to the current folder as crash-* or timeout-*, and the exit code is not 0. The tests hold the readers to 2 s.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vramcalc"]):
    from fuzz import targets

from fuzz.seeds import seeds

_MOST_INPUT_BYTES = 1 << 16
_SECONDS, _PROCESS_MIB = 20, 512


def main() -> None:
    """Fuzz until the runs are used up or something is found."""
    parser = argparse.ArgumentParser(prog="python -m fuzz")
    parser.add_argument("target", choices=targets.TARGETS)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    asked = parser.parse_args()
    target = targets.TARGETS[asked.target]
    with tempfile.TemporaryDirectory() as corpus, tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        for number, content in enumerate(seeds(asked.target)):
            (Path(corpus) / f"seed-{number}").write_bytes(content)
        flags = {
            "runs": asked.runs,
            "seed": asked.seed,
            "max_len": _MOST_INPUT_BYTES,
            "timeout": _SECONDS,
            "rss_limit_mb": _PROCESS_MIB,
            "verbosity": 0,
            "print_final_stats": 1,
        }
        atheris.Setup([sys.argv[0], *(f"-{name}={value}" for name, value in flags.items()), corpus], _one(target))
        atheris.Fuzz()


def _one(target: targets.Target) -> targets.Target:
    def test_one_input(data: bytes) -> None:
        targets.run(target, data)

    return test_one_input


if __name__ == "__main__":
    main()
