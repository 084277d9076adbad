"""Cold start against a do-nothing Typer command that imports what vramcalc is built on.

Runs pairs in turn, prints the median of each and the ratio, and exits 1 where a ratio is over its bound.

    python benchmarks/start_up.py [PAIRS]
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BASE = """
import typer, rich.table, yaml
from pydantic import BaseModel
app = typer.Typer()
@app.command()
def main() -> None: ...
app()
"""
ESTIMATE = ["estimate", "--model", "deepseek-r1-8b", "--gpu", "rtx3060"]
BOUNDS = {"estimate": (ESTIMATE, 1.5), "--json": ([*ESTIMATE, "--json"], 1.4), "--help": (["--help"], 1.2)}


def seconds(command: list[str]) -> float:
    """Return the wall time of one run."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    """Measure every command in turn with the base."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    worst = 0
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "base.py"
        script.write_text(BASE, encoding="utf-8")
        base = [sys.executable, str(script)]
        for name, (arguments, bound) in BOUNDS.items():
            command = [str(Path(sys.executable).with_name("vramcalc")), *arguments]
            seconds(command), seconds(base)  # warm the disk and the registry cache
            timed = [(seconds(command), seconds(base)) for _ in range(pairs)]
            ours, theirs = (statistics.median(column) for column in zip(*timed, strict=True))
            ratio = statistics.median(one / other for one, other in timed)
            worst |= ratio > bound
            print(f"{name:9} {ours * 1e3:6.0f} ms  base {theirs * 1e3:6.0f} ms  ratio {ratio:.2f} (bound {bound})")
    return int(worst)


if __name__ == "__main__":
    sys.exit(main())
