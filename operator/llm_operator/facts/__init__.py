"""What was seen of the cluster, as frozen dataclasses: the words between observing and deciding.

`observe` makes them, the pure rooms read them. No behaviour, no I/O.
"""
