"""Checkpoints that survive a kill, a power cut or a full disk."""

import functools
import logging
import os.path as osp
import time

import torch
from mmengine.dist import all_gather_object, broadcast, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner

from ...checkpoints.safety import non_finite_weights
from ...errors import UserError
from ...io import remove
from ..checkpoint_files import (
    begin_run,
    outdated_checkpoints,
    relocate_checkpoints,
    resume_from_newest,
    write_checkpoint,
)
from ..launch import from_main_process
from ..resume_checks import prepare_resume
from ..run_lock import lock_folder, unlock_folder
from ..training_state import (
    advance_schedulers,
    get_random_states,
    get_rank_state,
    is_accumulating,
    restore_training_state,
)
from .hang_watchdog import watched_save

RETRY_MINUTES = 1.0  # after a failed save
CLOCK_INTERVAL = 10  # iterations between reading the first rank's clock


@HOOKS.register_module()
class DurableCheckpointHook(CheckpointHook):
    """CheckpointHook that writes atomically, verifies, and saves within epochs.

    A checkpoint is written to a temporary file, synced to the disk, read back and
    renamed. Only then the pointer ``last_checkpoint`` changes, and older files are
    deleted. If the disk is full or fails, an error is logged and this checkpoint is
    skipped. Checkpoints are also written by time, in the middle of an epoch
    (``epoch_3_iter_1200.pth``: three epochs and a part, 1200 iterations in all).
    Resuming takes the newest readable file of the work dir.

    Args:
        interval (int): As in CheckpointHook, like all arguments that are not listed
            here. Defaults to 1.
        minutes (float, optional): Write a checkpoint when the last one is older, by
            the first rank's clock. None: never. Defaults to 10.
        max_keep_ckpts (int): Number of checkpoints of ``interval`` to keep, at least
            2; -1 keeps all. Those by time are deleted at the next one of
            ``interval``. Defaults to -1.
        resume_newest (bool): When resuming, prefer the work dir's newest checkpoint
            to ``load_from``. Defaults to True.
        resume_hyperparameters (bool): When resuming, keep the learning rate, its
            schedule and the optimizer's settings of the checkpoint, and report how
            they differ from the config's. False: use the config's, and keep the
            optimizer's moments. Defaults to True.

    Raises:
        UserError: If ``minutes`` is negative; if another training writes into the
            folder; when resuming, if no checkpoint can be read, or if it does not fit
            the model or the optimizer; at the end, if the last weights could not be
            saved.
    """

    def __init__(
        self,
        interval: int = 1,
        *args,
        minutes: float | None = 10,
        max_keep_ckpts: int = -1,
        resume_newest: bool = True,
        resume_hyperparameters: bool = True,
        **kwargs,
    ) -> None:
        if max_keep_ckpts == 1:
            max_keep_ckpts = 2
            message = (
                'DurableCheckpointHook: max_keep_ckpts=1, but 2 are kept, as the '
                'newest may turn out damaged.'
            )
            print_log(message, 'current', logging.WARNING)
        if minutes is not None and minutes < 0:
            raise UserError(f'DurableCheckpointHook: minutes={minutes} is negative.')
        super().__init__(interval, *args, max_keep_ckpts=max_keep_ckpts, **kwargs)
        self.minutes = minutes
        self.resume_newest = resume_newest
        self.resume_hyperparameters = resume_hyperparameters
        self.clock = time.monotonic
        self._training = False
        self._current_iter = -1  # the iteration that began last
        self._epochs_done = 0
        self._between_epochs = True
        self._saved: tuple[int, int] | None = None  # epochs and iterations
        self._due = False
        self._resumed: dict | None = None
        self._advance = False  # schedulers of the config to the checkpoint's position
        self._random_states: dict | None = None  # the training's, during validation
        self._rank_states: list = []
        self._info: dict = {}  # of the checkpoint that is being written

    # Resuming

    def before_run(self, runner: Runner) -> None:
        """Choose the file to resume from, before MMEngine does."""
        if not isinstance(runner._train_loop, BaseLoop):
            return  # a test
        folder = self._folder(runner)
        from_main_process(lambda: lock_folder(folder))
        if not runner._resume or runner._has_loaded:
            return
        runner._hooks = [*runner._hooks]  # MMEngine is in a loop over the old list
        before_others = Hook()  # as a hook has one priority
        before_others.after_load_checkpoint = self._check_loaded
        runner.register_hook(before_others, 'HIGHEST')
        if self.resume_newest or not runner._load_from:
            resume_from_newest(runner, folder, self.filename_tmpl)

    def _check_loaded(self, runner: Runner, checkpoint: dict) -> None:
        """Check a checkpoint, and keep its training state until all is built."""
        if runner._resume:
            keep = prepare_resume(runner, checkpoint, self.resume_hyperparameters)
            self._advance = not keep
            self._resumed = checkpoint.get('training_state')

    def _folder(self, runner: Runner) -> str:
        """Return the folder of the checkpoints, as CheckpointHook chooses it."""
        if self.out_dir in (None, runner.work_dir) or self._training:
            return self.out_dir or runner.work_dir
        return osp.join(self.out_dir, osp.basename(runner.work_dir.rstrip(osp.sep)))

    def before_train(self, runner: Runner) -> None:
        """Restore the training state, and name a new run."""
        hub = runner.message_hub
        folder = self._folder(runner)  # may have been moved since
        relocate_checkpoints(runner, folder, self.filename_tmpl)
        super().before_train(runner)
        if is_main_process():
            begin_run(runner, folder, self.filename_tmpl)
        self._training = True
        # Such as masks of -inf. Weights that become non-finite later are not saved.
        self._never_finite = non_finite_weights(runner.model.state_dict())
        self._last_time = self.clock()
        if 'validated_iter' not in hub.runtime_info:
            hub.update_info('validated_iter', runner.iter)
        if 'kept_checkpoints' not in hub.runtime_info:  # saved by MMEngine's own hook
            ids = self.keep_ckpt_ids if self.max_keep_ckpts > 0 else []
            hub.update_info(
                'kept_checkpoints', [[self.filename_tmpl.format(i), True] for i in ids]
            )
        if self._resumed:
            restore_training_state(runner, self._resumed)
            self._saved = self._position(runner)
            self.last_ckpt = runner._load_from
        self._resumed = None
        if self._advance:
            advance_schedulers(runner)
            self._advance = False

    # When to save

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Note that an iteration has begun."""
        self._current_iter = runner.iter
        self._between_epochs = False

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Save by iteration and by time."""
        if not self.by_epoch and self._is_scheduled(runner):
            self._save(runner)
        elif self._is_due(runner) and not is_accumulating(runner):
            self._save(runner)

    def after_train_epoch(self, runner) -> None:
        """Save by epoch."""
        if self.by_epoch:
            self._epochs_done = runner.epoch + 1
            self._between_epochs = True
            if self._is_scheduled(runner):
                self._save(runner)

    def before_val(self, runner) -> None:
        """Save before the validation, in case the run is killed during it."""
        if self._training:
            if not self.already_saved(runner):
                self._save(runner)
            self._random_states = get_random_states()

    def after_val(self, runner) -> None:
        """Save that the validation is done, and which checkpoint is the best."""
        if self._training:
            runner.message_hub.update_info('validated_iter', runner.iter)
            self._save(runner)
            self._random_states = None

    def after_train(self, runner) -> None:
        """Try once more to save the last weights, if that has failed."""
        if self.save_last and not self.already_saved(runner):
            self._save(runner)
            if not self.already_saved(runner):
                raise UserError(
                    'The training is done, but its last weights could not be saved '
                    f'in {self.out_dir}. See the messages above, and resume.'
                )
        self._training = False
        unlock_folder(self.out_dir)
        super().after_train(runner)

    def save_now(self, runner: Runner) -> str | None:
        """Save a checkpoint of this point of the training.

        To be called on all ranks, in ``after_train_iter`` or ``after_train_epoch``, by
        a hook of a lower priority than this one (``'LOWEST'``), after the parameter
        schedulers' step. During a validation the checkpoint from before it is kept.

        Args:
            runner (Runner): In training.

        Returns:
            str | None: Its path on the first rank; None on others, and if it could
            not be written.
        """
        if self._random_states is None and not self.already_saved(runner):
            self._save(runner)
        if is_main_process() and self.already_saved(runner):
            return self.last_ckpt
        return None

    def already_saved(self, runner: Runner) -> bool:
        """Return whether there is a checkpoint of this point of the training."""
        return self._saved == self._position(runner)

    def _position(self, runner: Runner) -> tuple[int, int]:
        """Return the completed epochs and iterations, in any hook method."""
        iterations = runner.iter + (runner.iter == self._current_iter)
        return max(runner.epoch, self._epochs_done), iterations

    def _is_scheduled(self, runner: Runner) -> bool:
        """Return whether to save by ``interval``, or because it is the end."""
        epochs, iterations = self._position(runner)
        step, last = iterations, runner.max_iters
        if self.by_epoch:
            step, last = epochs, runner.max_epochs
            if not self._between_epochs:
                return False
        return (
            self.interval > 0
            and step > self.save_begin
            and (step - self.save_begin) % self.interval == 0
        ) or (self.save_last and step == last)

    def _is_due(self, runner: Runner) -> bool:
        """Return whether to save by time, as the first rank's clock says."""
        ask = get_world_size() == 1 or runner.iter % CLOCK_INTERVAL == 0
        if self.minutes is not None and not self._due and ask:
            passed = self.clock() - self._last_time
            answer = torch.tensor([int(passed >= 60 * self.minutes)])
            broadcast(answer)
            self._due = bool(answer)
        return self._due

    # How to save

    def _save(self, runner: Runner) -> None:
        """Save a checkpoint with the states of all ranks."""
        state = get_rank_state(runner, self._random_states)
        with watched_save(runner):
            self._rank_states = all_gather_object(state)
            done = from_main_process(lambda: self._write_training(runner))
            self._rank_states = []
        self._due = False
        self._last_time = self.clock()
        if done:
            self._saved = self._position(runner)
        else:
            # Try again sooner, but not at once.
            self._last_time -= 60 * max(0, (self.minutes or 0) - RETRY_MINUTES)

    def _write_training(self, runner: Runner) -> bool:
        """On the first rank: write the checkpoint, and delete outdated ones."""
        epochs, iterations = self._position(runner)
        step: int | str = iterations
        if self.by_epoch:
            step = epochs if self._between_epochs else f'{epochs}_iter_{iterations}'
        name = self.filename_tmpl.format(step)
        path = osp.join(self.out_dir, name)
        kept = runner.message_hub.get_info('kept_checkpoints')
        kept = [entry for entry in kept if entry[0] != name]
        kept.append([name, self._is_scheduled(runner)])
        if not self._write(
            runner,
            path,
            dict(last_ckpt=path, kept_checkpoints=kept),
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=dict(epoch=epochs, iter=iterations),
            **self.args,
        ):
            return False
        self.last_ckpt = path
        for old in outdated_checkpoints(kept, self.max_keep_ckpts):
            if remove(osp.join(self.out_dir, old[0]), runner.logger):
                kept.remove(old)
        return True

    def _write(self, runner: Runner, path: str, info: dict, **kwargs) -> bool:
        """Write a checkpoint; return False if that failed, which is logged.

        The new entries of the message hub, ``info``, are saved with the checkpoint, and
        reach the hub only if that succeeds.
        """
        kwargs.update(
            file_client_args=self.file_client_args, backend_args=self.backend_args
        )
        self._info = info
        try:
            done = write_checkpoint(runner, path, self._never_finite, **kwargs)
        finally:
            self._info = {}
        if done:
            _update_info(runner, info)
        return done

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        """Save the best checkpoint; delete the previous one only afterwards."""
        if not self.save_best:
            return
        if 'auto' in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        saved = runner.message_hub.runtime_info
        for key, rule in zip(self.key_indicators, self.rules):
            suffix = '' if len(self.key_indicators) == 1 else f'_{key}'
            best = saved.get(f'best_score{suffix}', self.init_value_map[rule])
            score, old = metrics[key], saved.get(f'best_ckpt{suffix}')
            if score is None or not self.is_better_than[key](score, best):
                continue
            step = runner.epoch if self.by_epoch else runner.iter
            name = f'best_{key}_{self.filename_tmpl.format(step)}'.replace('/', '_')
            path = osp.join(self.out_dir, name)
            info = {f'best_score{suffix}': score, f'best_ckpt{suffix}': path}
            write = functools.partial(
                self._write,
                *(runner, path, info),
                save_optimizer=False,
                save_param_scheduler=False,
                meta=dict(epoch=runner.epoch, iter=runner.iter),
            )
            with watched_save(runner):
                done = from_main_process(write)
            if not done:
                continue
            _update_info(runner, info)
            previous = old and osp.basename(old).startswith('best_') and old != path
            if previous and is_main_process():
                remove(old, runner.logger)
            if suffix:
                self.best_ckpt_path_dict[key] = path
            else:
                self.best_ckpt_path = path

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the state that a resumed training needs."""
        saved = checkpoint['message_hub']
        saved['runtime_info'].update(self._info)
        saved['resumed_keys'].update(dict.fromkeys(self._info, True))
        if self._rank_states and 'optimizer' in checkpoint:
            checkpoint['training_state'] = dict(
                processes=get_world_size(), of_each=self._rank_states
            )


def _update_info(runner: Runner, info: dict) -> None:
    for key, value in info.items():
        runner.message_hub.update_info(key, value)
