"""What the operator says of itself: Prometheus metrics and log lines. Decides nothing."""
