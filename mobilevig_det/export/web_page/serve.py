#!/usr/bin/env python
"""Serve this folder to this machine only, with the headers that threads require."""

import argparse
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(SimpleHTTPRequestHandler):
    # The system's table may have other types for them.
    extensions_map = {
        **SimpleHTTPRequestHandler.extensions_map,
        '.js': 'text/javascript',
        '.mjs': 'text/javascript',
        '.wasm': 'application/wasm',
    }

    def end_headers(self):
        self.send_header('Cross-Origin-Opener-Policy', 'same-origin')
        self.send_header('Cross-Origin-Embedder-Policy', 'require-corp')
        self.send_header('Cache-Control', 'no-cache')  # the model may be exported again
        super().end_headers()

    def log_message(self, *args):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--port', type=int, default=8000)
    port = parser.parse_args().port
    handler = partial(Handler, directory=str(Path(__file__).parent))
    try:
        server = ThreadingHTTPServer(('127.0.0.1', port), handler)
    except (OSError, OverflowError) as error:
        sys.exit(f'serve.py: port {port} cannot be used: {error}')
    print(f'http://localhost:{server.server_port}/  (Ctrl+C ends it)', flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == '__main__':
    main()
