"""One configuration class per method, one file per seam."""
