"""The names that users may rely on; see "What is public" in CONTRIBUTING.md."""

import importlib
import pkgutil

import mobilevig_det

import pytest

PUBLIC = {
    'mobilevig_det': """AdaptViG Classifier Detector GreedyViG MobileViG MobileViGv2
        PyramidViG RapidNet TimmBackbone __version__ registry""",
    'mobilevig_det.backbones': """AdaptViG BaseBackbone GreedyViG MobileViG MobileViGv2
        PyramidViG RapidNet TimmBackbone fuse_backbones""",
    'mobilevig_det.checkpoints': """allow_checkpoint_types check_weights
        explain_mismatch find_file load_all_safely load_from_mobilevig read_checkpoint
        through_scheme""",
    'mobilevig_det.classification': """ClassifierPreprocessor DistilledHead
        DistillingClassifier ImageClassifier PyramidHead TopKAccuracy
        WarmupCosineLR load_classifier""",
    'mobilevig_det.config': 'check_device find_checkpoint find_config load_config',
    'mobilevig_det.datasets': """ImageFileError check_data_paths hush_opencv
        leaf_datasets make_shapes read_image""",
    'mobilevig_det.engine': """BoundedRuntimeInfoHook CompileHook CpuFastPathsHook
        DurableCheckpointHook FaultTolerantLocalVisBackend FiniteNumbersHook
        HangWatchdogHook ResumableEpochTrainLoop ResumableIterTrainLoop StopOnSignalHook
        SurvivingEpochTrainLoop SurvivingIterTrainLoop SurvivingLocalVisBackend
        WinogradHook ignore_signals ignore_signals_in_workers""",
    'mobilevig_det.evaluation': """FastCocoMetric comparable_arch confusion losses
        mean_loss published_run read_run""",
    'mobilevig_det.export': """FORMATS Session check_folder check_part check_size
        find_ort_web load make_metadata new_files verify write""",
    'mobilevig_det.mmcv_ops': 'provide_mmcv_ext use_compiled use_on_cpus',
    'mobilevig_det.ops': """cross_max gated_max keep_freed_memory knn_max max_relative
        prepare_process_for_cpu thresholded_max""",
}


def rooms():
    """The package and the modules right below it, without __main__ and timm_models."""
    yield mobilevig_det
    for module in pkgutil.iter_modules(mobilevig_det.__path__, 'mobilevig_det.'):
        if module.name.rpartition('.')[2] not in ('__main__', 'timm_models'):
            yield importlib.import_module(module.name)


def test_public_names_are_those_listed_here():
    found = {
        room.__name__: sorted(room.__all__)
        for room in rooms()
        if getattr(room, '__all__', ())
    }
    assert found == {room: names.split() for room, names in PUBLIC.items()}


@pytest.mark.parametrize('room', sorted(PUBLIC))
def test_public_names_exist(room):
    module = importlib.import_module(room)
    for name in PUBLIC[room].split():
        assert hasattr(module, name)
        assert name in dir(module)


def test_unknown_names_are_missing():
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        mobilevig_det.Nothing  # noqa: B018
