"""Run a small version of every benchmark: ``python -m benchmarks.run_all [--data FOLDER] [--only NAME ...]``.

A benchmark is a module ``benchmarks/FAMILY/NAME.py`` with a function ``quick(data, out)``, which takes about a minute,
writes its records into the folder `out`, and raises `benchmarks.common.Unavailable` when the data under `data` (or a
package) that it needs are absent. The full versions are the modules' own commands; their records are in ``results/``.
"""

from __future__ import annotations

import argparse
import importlib
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.common import OUTPUTS, ROOT, Unavailable, say


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything and return the number of benchmarks that failed."""
    options = parser().parse_args(arguments)
    failed = 0
    names = found()
    unknown = set(options.only or ()) - set(names)
    if unknown:
        raise SystemExit(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    for name in options.only or names:
        module = importlib.import_module(f"benchmarks.{name}")
        started = time.perf_counter()
        say(f"== {name}")
        try:
            module.quick(options.data, options.out)
        except Unavailable as reason:
            say(f"skipped: {reason}")
        except Exception:  # one broken benchmark must not hide the others; it is counted and shown
            traceback.print_exc()
            failed += 1
        else:
            say(f"done in {time.perf_counter() - started:.1f} s")
    if options.out.is_dir():
        page = report.main(["--results", str(options.out), "--out", str(options.out / "RESULTS.md")])
        say(page.read_text())
    return failed


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.run_all", description=__doc__.split(":")[0])
    made.add_argument("--data", type=Path, help="folder with mnist/, cifar10/, wikitext2/ (see benchmarks/networks)")
    made.add_argument("--only", nargs="+", help="names such as networks.vision; default: all")
    made.add_argument("--out", type=Path, default=OUTPUTS, help="folder of the records; results already there are kept")
    return made


def found() -> list[str]:
    """Return the names of all benchmarks, read off the files without importing them."""
    files = sorted(ROOT.glob("*/*.py"))
    return [f"{file.parent.name}.{file.stem}" for file in files if "\ndef quick(" in file.read_text()]


if __name__ == "__main__":
    raise SystemExit(main())
