"""Export a detector to ONNX, OpenVINO, ExecuTorch, Core ML or a page for the browser.

The file is saved only if it gives the same results as PyTorch.
"""

import argparse
import shutil
from pathlib import Path

from ..errors import UserError
from .arguments import make_config_parser
from .command import command

FORMATS = ('onnx', 'openvino', 'executorch', 'coreml', 'web')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_config_parser(__doc__)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--format', choices=FORMATS, required=True)
    parser.add_argument(
        '--part',
        choices=['detector', 'backbone'],
        help='the whole detector (default for onnx, openvino and web), or its '
        'backbone with its neck (for every format but web)',
    )
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='the one image size that a backbone shall take; phones need one',
    )
    parser.add_argument(
        '--int8',
        action='store_true',
        help='have the layers compute in int8, calibrated on training images; '
        'refused if that loses more than 0.006 AP on the validation set',
    )
    parser.add_argument(
        '--out',
        help='file to write; for web a folder (default: one in work_dirs/export)',
    )
    parser.add_argument(
        '--ort-web',
        metavar='FOLDER',
        help='for web: the npm package onnxruntime-web, unpacked (by default npm '
        'fetches it, once)',
    )
    return parser.parse_args(argv)


@command(parse_args)
def main(args: argparse.Namespace) -> None:
    """Run the command."""
    from .. import export
    from ..config import find_checkpoint, load_config
    from ..export.int8 import check_int8, write_int8
    from ..inference.models import load_predictor
    from ..mmcv_ops import use_on_cpus

    file_format = export.FORMATS[args.format]
    part = args.part or file_format.parts[0]
    export.check_part(args.format, part)
    size = tuple(args.size) if args.size else None
    if size and part == 'detector':
        raise UserError(
            '--size is for --part backbone: a detector takes images of any size.'
        )
    if args.ort_web and args.format != 'web':
        raise UserError('--ort-web is for --format web.')
    cfg = load_config(args.config, args.cfg_options)
    find_checkpoint(args.checkpoint)
    if args.int8:
        check_int8(args.format, part, cfg)
    name = Path(args.config).stem + ('_int8' if args.int8 else '')
    out = Path(args.out or f'work_dirs/export/{name}{file_format.suffix}')
    ort_web = None
    if args.format == 'web':
        export.check_folder(out)
        ort_web = export.find_ort_web(args.ort_web)
    elif out.suffix != file_format.suffix:
        raise UserError(
            f'--out must end in {file_format.suffix} for --format {args.format}, '
            f'not {out.name!r}.'
        )

    cfg.visualizer.vis_backends = []
    predictor = load_predictor(cfg, args.checkpoint, 'cpu')
    use_on_cpus()
    model = predictor.model
    if size:
        export.check_size(model, size)
    metadata = export.make_metadata(cfg, model, predictor.classes, part, size)
    with export.new_files(out) as path:
        float32 = path.parent / 'float32' / path.name if args.int8 else path
        float32.parent.mkdir(exist_ok=True)
        written = export.write(
            args.format, part, model, float32, size, metadata, ort_web
        )
        if args.format != 'coreml':  # runs on Apple's machines only
            export.verify(part, model, written, size, cfg)
        if args.int8:
            write_int8(float32, path, metadata, model, cfg)
            shutil.rmtree(float32.parent)  # verified, but not what was asked for
    print(f'Written: {out}')
    if args.format == 'web':
        print(f'Open the address that this prints: python {out / "serve.py"}')
