"""The only room that speaks with the API server: requests, the store of watched objects, Events.

Decides how an object is written (create, then server-side apply); refuses to know why.
"""
