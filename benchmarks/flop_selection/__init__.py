"""FLOP-constrained selection, allocation, channels and whole networks."""
