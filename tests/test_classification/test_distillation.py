"""The distilling classifier: timm's loss, and a teacher that is not in it."""

from mobilevig_det.classification.distillation import Teacher, build_teacher
from mobilevig_det.errors import UserError

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.model import ExponentialMovingAverage
from torch import nn
from torchvision_stand_in import import_with_stand_in

TINY = dict(channels=(4, 6, 8, 10), blocks=(1, 1, 1, 1))


@pytest.fixture(scope='module')
def timm():
    return import_with_stand_in('timm')


@pytest.fixture(scope='module')
def teacher_file(timm, tmp_path_factory):
    """A small network's file, laid out as DeiT's."""
    path = tmp_path_factory.mktemp('teacher') / 'teacher.pth'
    torch.manual_seed(3)
    network = timm.create_model('regnety_002', num_classes=7)
    torch.save(dict(model=network.state_dict()), path)
    return str(path)


@pytest.fixture
def student(teacher_file):
    torch.manual_seed(0)
    return MODELS.build(
        dict(
            type='DistillingClassifier',
            backbone=dict(type='MobileViG', arch=TINY, drop_path_rate=0.0),
            head=dict(
                type='DistilledHead', in_channels=10, hidden_channels=16, num_classes=7
            ),
            teacher=dict(model='regnety_002', checkpoint=teacher_file),
        )
    )


class ForTimm(nn.Module):
    """The student as timm's task wants it."""

    pretrained_cfg = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.num_classes, self.in_chans = 7, 3

    def set_distilled_training(self, mode):
        pass

    def forward(self, x):
        return self.model.head(self.model.backbone(x))


def test_loss_is_timms(timm, student, teacher_file):
    from timm.loss import SoftTargetCrossEntropy
    from timm.task import TokenDistillationTask

    images = torch.randn(4, 3, 64, 64)
    targets = torch.rand(4, 7).softmax(1)
    student.train()
    task = TokenDistillationTask(
        ForTimm(student),
        build_teacher('regnety_002', teacher_file, 7),
        criterion=SoftTargetCrossEntropy(),
        distill_type='hard',
        task_loss_weight=0.5,
        verbose=False,
    )
    task.train()
    want = task(images, targets)
    got = student(images, mode='loss', targets=targets)
    total, _ = student.parse_losses(got)
    torch.testing.assert_close(total, want['loss'])
    torch.testing.assert_close(got['loss_head'], 0.5 * want['task_loss'])
    torch.testing.assert_close(got['loss_dist_head'], 0.5 * want['distill_loss'])
    total.backward()
    assert all(p.grad is not None for p in student.parameters())


def test_teacher_is_not_part_of_the_student(student):
    student.train()
    student(torch.randn(2, 3, 64, 64), mode='loss', targets=torch.tensor([1, 2]))
    network = student.teacher.network
    assert not network.training
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())
    assert not any('teacher' in key for key in student.state_dict())
    inside = {id(p) for p in student.parameters()}
    assert not inside & {id(p) for p in network.parameters()}
    averaged = ExponentialMovingAverage(student, momentum=0.1)
    assert averaged.module.teacher is student.teacher
    assert not any('teacher' in key for key in averaged.state_dict())


def test_teacher_labels_the_mixed_images(student):
    """dist_head's loss is of the teacher's best class, of the same images."""
    images = torch.randn(3, 3, 64, 64)
    seen = []
    student.teacher = lambda x: seen.append(x) or torch.tensor([5, 0, 6])
    losses = student(images, mode='loss', targets=torch.tensor([1, 1, 1]))
    assert seen[0] is images
    logits = student.head(student.backbone(images))[1].log_softmax(1)
    want = -0.5 * logits[range(3), [5, 0, 6]].mean()
    torch.testing.assert_close(losses['loss_dist_head'], want)


@pytest.mark.parametrize(
    'model, classes, message',
    [
        ('regnety_004', 7, 'is not a regnety_004 with 7 classes'),
        ('regnety_002', 9, 'is not a regnety_002 with 9 classes'),
        ('regnetz_999', 7, "has no model 'regnetz_999'"),
    ],
)
def test_teacher_of_another_network_is_refused(
    timm, teacher_file, model, classes, message
):
    with pytest.raises(UserError, match=message):
        build_teacher(model, teacher_file, classes)


def test_missing_teacher_file_is_refused(timm, tmp_path):
    teacher = Teacher('regnety_002', str(tmp_path / 'none.pth'), 7)
    with pytest.raises(UserError, match='no checkpoint file'):
        teacher(torch.zeros(1, 3, 64, 64))
