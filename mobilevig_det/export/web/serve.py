#!/usr/bin/env python
"""Serve this folder to this machine only, with the headers that threads require."""

import argparse
import re
import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LOCAL_HOSTS = ('localhost', '127.0.0.1', '[::1]')


class Handler(SimpleHTTPRequestHandler):
    """HTTP request handler that serves the regular files of a folder.

    Args:
        hosts (Sequence[str]): Host names of this server. Requests for other names are
            rejected, which prevents DNS rebinding by pages of other sites.
        directory (str): The folder. Links to files outside of it are not followed.
    """

    # The operating system may define other types for these suffixes.
    extensions_map = {
        **SimpleHTTPRequestHandler.extensions_map,
        '.js': 'text/javascript',
        '.mjs': 'text/javascript',
        '.wasm': 'application/wasm',
    }

    def __init__(self, *args, hosts, **options):
        self.hosts = hosts
        super().__init__(*args, **options)

    def send_head(self):
        """Send the response headers, or an error if the host name is unknown."""
        found = self.headers.get_all('Host', [])
        # The port is ignored, because a tunnel may use another one.
        names = [re.sub(r':\d+$', '', host).lower() for host in found]
        if len(names) != 1 or names[0] not in self.hosts:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, 'Unknown host')
            return None
        return super().send_head()

    def translate_path(self, path):
        """Return the file of a URL path, or '' if it is not a file in the folder."""
        try:
            file = Path(super().translate_path(path)).resolve()
            if file.is_dir():
                file = (file / 'index.html').resolve()
            if file.is_file() and file.is_relative_to(Path(self.directory).resolve()):
                return str(file)
        except (OSError, RuntimeError, ValueError):  # too long, cyclic link, NUL
            pass
        return ''  # answered with 404

    def end_headers(self):
        """Add the headers for cross-origin isolation, and disable caching."""
        self.send_header('Cross-Origin-Opener-Policy', 'same-origin')
        self.send_header('Cross-Origin-Embedder-Policy', 'require-corp')
        self.send_header('Cache-Control', 'no-cache')  # the model may be exported again
        super().end_headers()

    def log_message(self, *args):
        """Print nothing for a request."""


def main():
    """Run the server until Ctrl+C is pressed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--port', type=int, default=8000)
    parser.add_argument('--host', help='also answer under this name, behind a proxy')
    args = parser.parse_args()
    hosts = (*LOCAL_HOSTS, args.host.lower()) if args.host else LOCAL_HOSTS
    handler = partial(Handler, hosts=hosts, directory=str(Path(__file__).parent))
    try:
        server = ThreadingHTTPServer(('127.0.0.1', args.port), handler)
    except (OSError, OverflowError) as error:
        sys.exit(f'serve.py: port {args.port} cannot be used: {error}')
    print(f'http://localhost:{server.server_port}/  (Ctrl+C ends it)', flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == '__main__':
    main()
