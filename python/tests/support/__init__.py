"""What the tests with brokers and workers start."""
