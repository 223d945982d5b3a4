"""Maximising the bound of a problem: the perspective relaxation, the bundle over few dual variables, ``certify``."""
