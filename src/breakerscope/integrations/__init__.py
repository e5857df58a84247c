"""Breakers inside the clients and servers that people use; one module for each library.

`from breakerscope.integrations.httpx import BreakerTransport` and so on. Nothing is imported here,
so each module needs its own library only.
"""
