"""Choices within budgets over whole networks: saliencies, gradient steps, blocks, allocation, and their baselines."""
