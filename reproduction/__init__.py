"""Every published figure, and the code that measures it again.

The command is ``mobilevig_det reproduce``, in a clone.
"""
