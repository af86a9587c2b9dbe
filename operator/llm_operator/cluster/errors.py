"""The one error of this room: a message for a person, with the way out where there is one."""


class ClusterError(Exception):
    """The local cluster cannot do what was asked."""
