"""What the benchmarks share: kernel KSM, a private hub, workers, guests."""
