"""Pyramid ViG-Ti on ImageNet-1K, 300 epochs: MobileViG's recipe without a teacher.

That is the command in the authors' readme, which they give for S.
"""

_base_ = './mobilevig_m_300e.py'

mean = [127.5] * 3  # of every channel, and the standard deviation
model = dict(
    _delete_=True,
    type='ImageClassifier',
    data_preprocessor=dict(
        type='ClassifierPreprocessor',
        mean=mean,
        std=mean,
        mixing=_base_.model.data_preprocessor.mixing,
    ),
    backbone=dict(type='PyramidViG', arch='ti', drop_path_rate=0.1),
    head=dict(type='PyramidHead', in_channels=384, num_classes=1000),
)

train_pipeline = _base_.train_pipeline
for augment in train_pipeline[-3].transforms:
    augment[0].hparams.pad_val = [128] * 3
train_pipeline[-2].update(fill_color=mean, fill_std=mean)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
