import pytest
import tiny_coco
from mmengine.registry import init_default_scope


@pytest.fixture
def root(tmp_path):
    init_default_scope('mmdet')
    tiny_coco.write(tmp_path, 'train')
    tiny_coco.write(tmp_path, 'val')
    return tmp_path
