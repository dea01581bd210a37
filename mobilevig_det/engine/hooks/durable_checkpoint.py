"""Checkpoints that a kill, a power cut or a full disk cannot spoil."""

import logging
import os.path as osp
import time
from pathlib import Path

import torch
from mmengine.dist import (
    all_gather_object,
    broadcast,
    broadcast_object_list,
    get_world_size,
    is_main_process,
)
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...checkpoints.safety import describe_non_finite, non_finite_weights
from ...errors import UserError
from ...io import atomic_write, atomic_write_text, remove
from ..current_run import begin_or_go_on
from ..kept_checkpoints import outdated
from ..newest_checkpoint import (
    POINTER,
    check_checkpoint,
    has_checkpoints,
    resume_from_newest,
)
from ..random_states import get_random_states
from ..training_state import get_rank_state, is_accumulating, restore
from .hang_watchdog import watched_save

RETRY_MINUTES = 1.0  # after a save that did not work
ASK_EVERY = 10  # iterations between two questions to the first process's clock


@HOOKS.register_module()
class DurableCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook, whose files survive whatever ends the run.

    A checkpoint is written beside the older ones, forced to the disk, read back
    and renamed; only then the pointer ``last_checkpoint`` changes, and older
    files are deleted. A full disk, or one that fails in another way (no right to
    write, an input/output error), costs a message and this checkpoint. Beside
    the epochs (or iterations) it saves by the clock, in the middle of an epoch
    (``epoch_3_iter_1200.pth``: three epochs and some more, 1200 iterations in
    all). Resuming takes the newest file of the work dir that can be read.

    Args:
        interval (int): As CheckpointHook's, as are all others that are not
            named here. Defaults to 1.
        minutes (float, optional): A checkpoint is written where the last is
            older, by the first process's clock. None: never. Defaults to 10.
        max_keep_ckpts (int): How many of ``interval``'s are kept, at least 2;
            -1 keeps all. The clock's go at the next of ``interval``'s. Defaults
            to -1.
        resume_newest (bool): When resuming, prefer the work dir's newest
            checkpoint to ``load_from``. Defaults to True.

    Raises:
        UserError: If ``minutes`` is below zero; on resuming, if no checkpoint
            can be read; at the end, if the last weights could not be saved.
    """

    def __init__(
        self,
        interval: int = 1,
        *args,
        minutes: float | None = 10,
        max_keep_ckpts: int = -1,
        resume_newest: bool = True,
        **kwargs,
    ) -> None:
        if max_keep_ckpts == 1:
            max_keep_ckpts = 2
            print_log(
                'DurableCheckpointHook: max_keep_ckpts=1, but 2 are kept, as the '
                'newest may turn out damaged.',
                'current',
                level=logging.WARNING,
            )
        if minutes is not None and minutes < 0:
            raise UserError(f'DurableCheckpointHook: minutes={minutes} is below zero.')
        super().__init__(interval, *args, max_keep_ckpts=max_keep_ckpts, **kwargs)
        self.minutes = minutes
        self.resume_newest = resume_newest
        self.clock = time.monotonic
        self._training = False
        self._stepping = -1  # the iteration that was begun last
        self._epochs_ended = 0
        self._between_epochs = True
        self._saved: tuple[int, int] | None = None  # epochs and iterations
        self._saved_alone: tuple[int, int] | None = None
        self._due = False
        self._resumed: dict | None = None
        self._random_states: dict | None = None  # the training's, in validation
        self._rank_states: list = []

    # Where the training starts

    def before_run(self, runner: Runner) -> None:
        """Choose the file to resume from, before MMEngine does."""
        if not runner._resume or runner._has_loaded:
            return
        if runner._load_from and not self.resume_newest:
            return
        resume_from_newest(runner, self._folder(runner), self.filename_tmpl)

    def _folder(self, runner: Runner) -> str:
        """Where the checkpoints are, as CheckpointHook decides it."""
        if self.out_dir in (None, runner.work_dir) or self._training:
            return self.out_dir or runner.work_dir
        return osp.join(self.out_dir, osp.basename(runner.work_dir.rstrip(osp.sep)))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the processes' states until all is built that they belong to."""
        if runner._resume:
            self._resumed = checkpoint.get('training_state')

    def before_train(self, runner: Runner) -> None:
        """Bring every generator and gradient to where the checkpoint has them."""
        hub = runner.message_hub
        folder = self._folder(runner)
        # The work dir may have been moved since.
        for key, value in list(hub.runtime_info.items()):
            if key.startswith('best_ckpt') and value:
                hub.update_info(key, osp.join(folder, osp.basename(value)))
        super().before_train(runner)
        if is_main_process():
            used = has_checkpoints(folder, self.filename_tmpl)
            begin_or_go_on(runner, folder, used)
        self._training = True
        # Such as masks of -inf. What becomes so later is spoilt.
        self._never_finite = non_finite_weights(runner.model.state_dict())
        self._last_time = self.clock()
        if 'validated_iter' not in hub.runtime_info:
            hub.update_info('validated_iter', runner.iter)
        if 'kept_checkpoints' not in hub.runtime_info:
            hub.update_info(
                'kept_checkpoints',
                [[self.filename_tmpl.format(i), True] for i in self.keep_ckpt_ids]
                if self.max_keep_ckpts > 0
                else [],
            )
        if self._resumed:
            restore(runner, self._resumed)
            self._saved = self._position(runner)
            self.last_ckpt = runner._load_from
        self._resumed = None

    # When it saves

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self._stepping = runner.iter
        self._between_epochs = False

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        """Save by iteration and by the clock."""
        if not self.by_epoch and self._is_scheduled(runner):
            self._save(runner)
        elif self._is_due(runner) and not is_accumulating(runner):
            self._save(runner)

    def after_train_epoch(self, runner) -> None:
        """Save by epoch."""
        if self.by_epoch:
            self._epochs_ended = runner.epoch + 1
            self._between_epochs = True
            if self._is_scheduled(runner):
                self._save(runner)

    def before_val(self, runner) -> None:
        """Save from before a validation, for a kill in the middle of it."""
        if self._training:
            if self._saved != self._position(runner):
                self._save(runner)
            self._random_states = get_random_states()

    def after_val(self, runner) -> None:
        """Save that this validation is done, and which checkpoint is the best."""
        if self._training:
            runner.message_hub.update_info('validated_iter', runner.iter)
            self._save(runner)
            self._random_states = None

    def after_train(self, runner) -> None:
        """One more try where the last weights could not be saved."""
        if self.save_last and self._saved != self._position(runner):
            self._save(runner)
            if self._saved != self._position(runner):
                raise UserError(
                    'The training is done, but its last weights could not be saved '
                    f'in {self.out_dir}: see the messages above, and resume.'
                )
        self._training = False
        super().after_train(runner)

    def save_now(self, runner: Runner, together: bool = False) -> str | None:
        """Write a checkpoint of this very point of the training.

        To be called in ``after_train_iter`` or ``after_train_epoch`` by a hook of
        a lower priority than this one (``'LOWEST'``), when the schedules have
        stepped; or in a validation, where the checkpoint from before it stands.

        Args:
            runner (Runner): In training.
            together (bool): Whether all processes call it, so that the states of
                all are saved. False talks to nobody, so that a dead process
                can't hold it up, and saves the first process's states alone.

        Returns:
            str | None: Its path, on the first process; None on others, and where
            it couldn't be written.
        """
        if self._random_states is None and not self.already_saved(runner):
            self._save(runner, together)
        if is_main_process() and self.already_saved(runner):
            return self.last_ckpt
        return None

    def already_saved(self, runner: Runner) -> bool:
        """Whether a checkpoint of this very point is on the disk."""
        return self._position(runner) in (self._saved, self._saved_alone)

    def _position(self, runner: Runner) -> tuple[int, int]:
        """Whole epochs and iterations that are done, whatever hook asks."""
        iterations = runner.iter + (runner.iter == self._stepping)
        return max(runner.epoch, self._epochs_ended), iterations

    def _is_scheduled(self, runner: Runner) -> bool:
        """Whether this point is one of ``interval``'s, or the last."""
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
        """Whether the clock of the first process says that it is time."""
        ask = get_world_size() == 1 or runner.iter % ASK_EVERY == 0
        if self.minutes is not None and not self._due and ask:
            passed = self.clock() - self._last_time
            answer = torch.tensor([int(passed >= 60 * self.minutes)])
            broadcast(answer)
            self._due = bool(answer)
        return self._due

    # How it saves

    def _save(self, runner: Runner, together: bool = True) -> None:
        """Write this point's checkpoint, with the states of all processes."""
        state = get_rank_state(runner, self._random_states)
        with watched_save(runner):
            self._rank_states = all_gather_object(state) if together else [state]
            done = [is_main_process() and self._write_training(runner)]
            self._rank_states = []
            if together:
                broadcast_object_list(done)
        self._due = False
        self._last_time = self.clock()
        if not done[0]:
            # Tried again sooner, but not at once.
            self._last_time -= 60 * max(0, (self.minutes or 0) - RETRY_MINUTES)
        elif together:
            self._saved = self._position(runner)
        else:
            self._saved_alone = self._position(runner)

    def _write_training(self, runner: Runner) -> bool:
        """On the first process: this point's file, the pointer, old ones away."""
        epochs, iterations = self._position(runner)
        step: int | str = iterations
        if self.by_epoch:
            step = epochs if self._between_epochs else f'{epochs}_iter_{iterations}'
        name = self.filename_tmpl.format(step)
        path = osp.join(self.out_dir, name)
        info = runner.message_hub.runtime_info
        before = {key: info.get(key) for key in ('last_ckpt', 'kept_checkpoints')}
        kept = [entry for entry in before['kept_checkpoints'] if entry[0] != name]
        kept.append([name, self._is_scheduled(runner)])
        runner.message_hub.update_info('last_ckpt', path)
        runner.message_hub.update_info('kept_checkpoints', kept)
        if not self._write(
            runner,
            path,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=dict(epoch=epochs, iter=iterations),
            **self.args,
        ):
            runner.message_hub.update_info_dict(before)
            return False
        self.last_ckpt = path
        for old in outdated(kept, self.max_keep_ckpts):
            if remove(osp.join(self.out_dir, old[0]), runner.logger):
                kept.remove(old)
        return True

    def _write(self, runner: Runner, path: str, **kwargs) -> bool:
        """A checkpoint and, for a training's, the pointer; False where it can't."""

        def write(part: str) -> None:
            folder, name = osp.split(part)
            runner.save_checkpoint(
                folder,
                name,
                self.file_client_args,
                by_epoch=False,
                backend_args=self.backend_args,
                **kwargs,
            )

        def check(part: Path) -> None:
            counts = non_finite_weights(check_checkpoint(str(part))['state_dict'])
            spoilt = {k: n for k, n in counts.items() if k not in self._never_finite}
            if spoilt:
                raise UserError(describe_non_finite(spoilt))

        try:
            with atomic_write(path, check) as part:
                write(str(part))
            if kwargs['save_optimizer']:
                target = osp.relpath(path, runner.work_dir)  # if the folder moves
                atomic_write_text(osp.join(runner.work_dir, POINTER), target)
        except (OSError, UserError) as error:
            runner.logger.error(
                f'{path} could not be written ({error}). Older checkpoints are as '
                'they were; the training goes on, and saves at the next chance.'
            )
            return False
        runner.logger.info(f'Saved {path}')
        return True

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        """The best one likewise: the one before goes when the new one is there."""
        if not self.save_best:
            return
        if 'auto' in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        for key, rule in zip(self.key_indicators, self.rules):
            suffix = '' if len(self.key_indicators) == 1 else f'_{key}'
            info = runner.message_hub.runtime_info
            best = info.get(f'best_score{suffix}', self.init_value_map[rule])
            score = metrics[key]
            if score is None or not self.is_better_than[key](score, best):
                continue
            self._replace_best(runner, key, suffix, score)

    def _replace_best(self, runner: Runner, key: str, suffix: str, score) -> None:
        step = runner.epoch if self.by_epoch else runner.iter
        name = f'best_{key}_{self.filename_tmpl.format(step)}'.replace('/', '_')
        path = osp.join(self.out_dir, name)
        hub = runner.message_hub
        keys = f'best_score{suffix}', f'best_ckpt{suffix}'
        before = {k: hub.runtime_info.get(k) for k in keys}
        hub.update_info_dict(dict(zip(keys, (score, path))))
        with watched_save(runner):
            done = [
                is_main_process()
                and self._write(
                    runner,
                    path,
                    save_optimizer=False,
                    save_param_scheduler=False,
                    meta=dict(epoch=runner.epoch, iter=runner.iter),
                )
            ]
            broadcast_object_list(done)
        old = before[keys[1]]
        if not done[0]:
            for k, value in before.items():
                hub.runtime_info.pop(k, None)
                if value is not None:
                    hub.update_info(k, value)
            return
        if is_main_process() and old and old != path:
            remove(old, runner.logger)
        if suffix:
            self.best_ckpt_path_dict[key] = path
        else:
            self.best_ckpt_path = path

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add what only a resumed training needs."""
        if self._rank_states and 'optimizer' in checkpoint:
            checkpoint['training_state'] = dict(
                processes=get_world_size(), of_each=self._rank_states
            )
