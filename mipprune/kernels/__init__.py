"""Functions on arrays that know no type of the package; dense where it pays."""
