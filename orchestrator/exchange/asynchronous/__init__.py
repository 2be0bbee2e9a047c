"""Every push is an update: the served topology without rounds."""
