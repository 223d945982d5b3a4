"""Benchmarks of rule selection."""
