"""Random programs of memory calls, run bare and while they are merged: both must say the same."""
