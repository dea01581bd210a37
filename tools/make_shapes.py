#!/usr/bin/env python
"""The same as ``python -m mobilevig_det make-shapes``."""

from mobilevig_det.cli.make_shapes import main

if __name__ == '__main__':
    main()
