"""Two processes with gloo that normalize their parts of a batch.

    python sync_batch_norm_job.py FOLDER

Reads ``inputs.pt`` there and writes ``0.pt`` and ``1.pt``.
"""

import os
import sys

import torch
import torch.distributed as dist
from mmcv_layers import replaced_methods


def run(SyncBatchNorm, rank, folder):
    """Write output, gradients and running statistics of each case."""
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2
    )
    results = []
    for case in torch.load(f'{folder}/inputs.pt', weights_only=True):
        layer = SyncBatchNorm(3, stats_mode=case['mode']).to(case['weight'].dtype)
        layer.weight.data, layer.bias.data = case['weight'], case['bias']
        x = case['x'][rank].requires_grad_()
        out = layer(x)
        out.backward(case['grad'][rank])
        results.append(
            dict(
                out=out.detach(),
                x=x.grad,
                weight=layer.weight.grad,
                bias=layer.bias.grad,
                mean=layer.running_mean,
                var=layer.running_var,
                group_size=layer.group_size,
            )
        )
    torch.save(results, f'{folder}/{rank}.pt')
    dist.destroy_process_group()


if __name__ == '__main__':
    child = os.fork()
    with replaced_methods('sync_bn') as module:
        run(module.SyncBatchNorm, 1 if child else 0, sys.argv[1])
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os._exit(0)
