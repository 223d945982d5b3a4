"""Trees over single entries at scale: the search, its ledger, and the bounds at nodes as strategies."""

from __future__ import annotations
