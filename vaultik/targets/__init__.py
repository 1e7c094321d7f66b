"""Luigi targets: `exists()` and little more."""
