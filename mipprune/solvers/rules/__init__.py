"""Rules from tree ensembles: descent over trees, exchanges, two classes, layers of trees."""
