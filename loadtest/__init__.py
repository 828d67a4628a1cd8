"""Everything that runs for real: the dispatcher, the flaky receivers, the load test."""
