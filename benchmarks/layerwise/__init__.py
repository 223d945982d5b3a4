"""Layer-wise pruning of synthetic layers: errors against published figures, times against a one-shot method."""
