# MMDetection's schedule of 12 epochs, with a loop that resumes in the middle of one.
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'
train_cfg = dict(type='mobilevig_det.engine.ResumableEpochTrainLoop')
