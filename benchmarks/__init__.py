"""Measures what the operator promises in numbers, on a real control plane: `make bench`.

Each figure comes from a client's watch clock, the API server's audit log or /proc, and never from
the operator itself. Beside it, in the same run and in the same way, stands Kubernetes' own
Deployment controller: what the machine can do at all. Decides nothing about pass or fail.
"""
