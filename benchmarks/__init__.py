"""Benchmarks with recorded results; one package per family."""
