"""Export a detector to ONNX, OpenVINO, ExecuTorch, Core ML or a web page.

The file is saved only if it gives the same results as PyTorch. (Core ML models run only
on Apple's machines and are not compared elsewhere.)
"""

import argparse
import shutil
from pathlib import Path

from ..errors import UserError
from .arguments import make_config_parser
from .command import command

FORMATS = ('onnx', 'openvino', 'executorch', 'coreml', 'web')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the arguments of the command, by default those of the program."""
    parser = make_config_parser(__doc__)
    parser.add_argument('checkpoint', help='Checkpoint file of the detector.')
    parser.add_argument(
        '--format', choices=FORMATS, required=True, help='Format of the exported file.'
    )
    parser.add_argument(
        '--part',
        choices=['detector', 'backbone'],
        help='Export the whole detector (the default for onnx, openvino and web) or '
        'only its backbone and neck (possible with every format except web).',
    )
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='Fix the image size of a backbone. Required by the formats for phones, '
        'executorch and coreml.',
    )
    parser.add_argument(
        '--int8',
        action='store_true',
        help='Quantize the layers to int8, calibrated on training images. The export '
        'fails if this costs more than 0.006 AP on the validation set.',
    )
    parser.add_argument(
        '--out',
        help='File to write, or folder with --format web (default: a name in '
        'work_dirs/export made from that of the config).',
    )
    parser.add_argument(
        '--ort-web',
        metavar='FOLDER',
        help='Folder of the unpacked npm package onnxruntime-web, for --format web '
        '(default: npm downloads it once).',
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
        if args.format != 'coreml':  # it runs only on Apple's machines
            export.verify(part, model, written, size, cfg)
        if args.int8:
            write_int8(float32, path, metadata, model, cfg)
            shutil.rmtree(
                float32.parent
            )  # only needed to make and verify the int8 file
    print(f'Written: {out}')
    if args.format == 'web':
        print(f'To open the page, run: python {out / "serve.py"}')
