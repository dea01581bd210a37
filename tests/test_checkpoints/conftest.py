import pytest
import torch
from checkpoints import imagenet_checkpoint


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """Folder with files that are made once: good.pth.tar, raw.pth.tar."""
    folder = tmp_path_factory.mktemp('files')
    torch.save(imagenet_checkpoint(), folder / 'good.pth.tar')
    torch.save(imagenet_checkpoint(averaged=False), folder / 'raw.pth.tar')
    return folder
