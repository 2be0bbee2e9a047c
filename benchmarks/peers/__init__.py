"""What the benchmarks compare with, written with the bare libraries."""
