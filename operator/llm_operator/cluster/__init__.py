"""The test drive: a real Kubernetes control plane and a simulated GPU fleet on one machine.

Stands apart from the operator it exercises: it may import `api` and nothing else, so that it
cannot repeat the operator's mistakes. The only simulated parts are kubelets, GPUs and engines.
"""
