"""Engines that run in a process of their own: both sides, their messages, heartbeat and replacement."""
