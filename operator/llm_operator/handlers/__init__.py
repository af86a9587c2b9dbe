"""The only room that imports kopf: watches, start-up, probes, shutdown.

Decides nothing about models: what a watch shows goes into the store, and its owner's name into the
work queue.
"""
