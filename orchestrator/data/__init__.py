"""Where samples come from and which rank sees which, independent of the number of workers."""
