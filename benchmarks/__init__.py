"""Measure speed and memory next to the reference implementation, MMDetection and
baselines. ``mobilevig_det benchmark`` is the command, in a clone."""
