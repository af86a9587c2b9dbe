"""Steady traffic to a Service of the local cluster, and what became of every request.

`python -m llm_operator.cluster.load` runs where Services are reached, inside the cluster's network;
`Load` starts it there and reads along. It knows HTTP and the engine's wire format, and nothing of
pods, revisions or the operator, so that it sees what a user sees.
"""
