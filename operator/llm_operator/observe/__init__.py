"""Facts as frozen dataclasses, and who fetches them: watched objects, the Hub, nodes.

Decides what of an object is worth keeping; refuses to judge it.
"""
