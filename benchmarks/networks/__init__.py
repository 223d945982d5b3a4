"""Real networks before and after one-shot pruning."""
