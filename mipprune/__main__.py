"""`python -m mipprune`."""

from __future__ import annotations

from mipprune.cli import main

if __name__ == "__main__":
    main()
