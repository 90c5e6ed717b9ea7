"""What `import pyimplicit` adds to `import jax, equinox, diffrax`, in fresh processes.

python -m tests.bench.imports [--repeats 7]
"""

import argparse
import statistics
import subprocess
import sys


CODE = """
import time
begin = time.perf_counter()
import jax, equinox, diffrax
middle = time.perf_counter()
import pyimplicit
print(middle - begin, time.perf_counter() - middle)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    runs = []
    for _ in range(repeats + 1):  # the first fills the file cache
        done = subprocess.run(
            [sys.executable, "-c", CODE], check=True, capture_output=True, text=True
        )
        runs.append([float(number) for number in done.stdout.split()])
    peers, ours = (statistics.median(column) for column in zip(*runs[1:], strict=True))
    print(f"import jax, equinox, diffrax: {peers:.2f} s; pyimplicit adds {ours:.3f} s")


if __name__ == "__main__":
    main()
