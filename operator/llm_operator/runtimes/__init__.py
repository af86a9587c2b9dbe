"""Engines: what each can shard and quantize, and how a plan becomes its container.

One module per engine. Pure: no clock, no I/O, no Kubernetes client. Decides nothing about memory
(that is `planning`) nor about which objects exist (that is `desired`).
"""
