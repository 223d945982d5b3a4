"""Transposable N:M masks: exactness, errors of other methods, speed."""
