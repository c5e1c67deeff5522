"""Compiled bytes and tables of chatcore: frames, routing, fan-out, timing wheel, token bucket, replay window, counters.

Never imports asyncio, a message broker, a cache or anything else of chatcore.
"""
