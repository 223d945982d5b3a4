"""Pruning one layer: ALPS, SparseGPT, Wanda, optimal brain compression, local search."""
