"""From the revisions that exist to the next step: which pods may come, which may go.

Pure and stateless: everything follows from what is seen now, so that a restart changes nothing.
"""
