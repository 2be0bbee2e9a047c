"""The seams, the values that cross them, the name tables and the run directory."""
