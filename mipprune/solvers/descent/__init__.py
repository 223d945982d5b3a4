"""First-order descent: any smooth loss over any structure, graphical models, several regressions at once."""
