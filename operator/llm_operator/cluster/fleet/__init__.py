"""A virtual kubelet for nodes with GPUs that do not exist."""
