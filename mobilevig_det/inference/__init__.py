"""Inference: predict images and videos in Python, on the command line or on Ray."""
