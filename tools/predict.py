#!/usr/bin/env python
"""The same as ``mobilevig_det predict``."""

from mobilevig_det_cli import main

if __name__ == '__main__':
    main('predict')
