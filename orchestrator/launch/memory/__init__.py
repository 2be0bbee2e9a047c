"""What a job needs of each worker's memory, by formula: no torch, nothing is started."""
