#!/usr/bin/env python
"""The same as ``mobilevig_det benchmark``."""

from mobilevig_det_cli import main

if __name__ == '__main__':
    main('benchmark')
