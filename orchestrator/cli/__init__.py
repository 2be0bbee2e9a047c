"""The command line: argument parsing and presentation only."""
