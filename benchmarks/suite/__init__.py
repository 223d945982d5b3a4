"""The benchmark suite itself: what measuring costs."""
