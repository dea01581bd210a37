#!/usr/bin/env python
"""The same as ``python -m mobilevig_det env``."""

from mobilevig_det.cli.env import main

if __name__ == '__main__':
    main()
