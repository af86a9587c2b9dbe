"""The loop: a work queue, and one pass of gather, decide, apply, summarise for one object.

Level-triggered: a pass looks at what is, never at what has happened. Decides the order of writes;
what should be there is decided by the pure rooms.
"""
