"""The typed contract with the Rust core."""

PAGE_SIZE: int
