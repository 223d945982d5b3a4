"""The exact road: SCIP and HiGHS on the canonical data, their points repaired, their values recomputed."""
