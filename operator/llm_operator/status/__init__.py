"""From what was observed to what the object says: causes, conditions, counts, messages.

Pure. Decides which condition holds and why; refuses to know how anything was observed or written.
"""
