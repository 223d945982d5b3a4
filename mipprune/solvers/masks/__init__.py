"""Transposable masks by other methods than the exact oracle, and orders of rows and columns in which they keep more."""
