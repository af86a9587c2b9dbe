"""Plans, runs, scales and upgrades quantized LLM serving on Kubernetes, and explains itself."""
