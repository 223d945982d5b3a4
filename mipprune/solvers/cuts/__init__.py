"""Cutting planes in the mask: what a tangent says of every mask, kept by a master; chains of problems share it."""
