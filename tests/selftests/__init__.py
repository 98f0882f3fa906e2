"""Public test programs, run bare and beside an agent: what differs is ours to explain."""
