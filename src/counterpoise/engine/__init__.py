"""What executes runs: one at a time, in worker processes, or on the machines of a Ray cluster."""
