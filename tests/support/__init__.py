"""What tests, soak, fuzzer, differential test and benchmarks share."""
