"""PURE. Signals seen + history + now -> how many replicas, and why.

Takes `now`, reads no clock, does no I/O. Refuses to know Kubernetes, Prometheus and any engine.
"""
