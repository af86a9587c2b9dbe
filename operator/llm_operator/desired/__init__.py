"""The child objects that a deployment should have, and the record of how each revision came about.

Pure: the same inputs give the same objects, whatever the clock, the cluster or the operator's
configuration. Decides neither plans nor how many replicas a revision has; applies nothing.
"""
