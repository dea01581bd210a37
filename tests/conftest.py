import pytest


@pytest.fixture(scope='session')
def shapes_root(tmp_path_factory):
    """A tiny generated data set: 8 + 4 images of 64 pixels."""
    from mobilevig_det.shapes import make_shapes
    return make_shapes(
        tmp_path_factory.mktemp('shapes'), num_train=8, num_val=4, size=64)
