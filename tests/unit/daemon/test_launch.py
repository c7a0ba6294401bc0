"""What the daemon leaves out while it imports, and that nothing of that stays."""

import os
import subprocess
import sys
from pathlib import Path

SOURCE = str(Path(__file__).parents[3] / "src")
PROGRAM = """
import gc, os, ssl, sys
before = dict(os.environ)
loaded = []
read = ssl.SSLContext.set_default_verify_paths
def spy(context):
    loaded.append(os.environ["SSL_CERT_FILE"])
    read(context)
ssl.SSLContext.set_default_verify_paths = spy
from lading.daemon.launch import light_imports, settle
with light_imports("test"):
    import lading.daemon.main
    import lading.daemon.wiring
    assert not gc.isenabled()
assert not any(name.partition(".")[0] in ("rich", "click", "pygments", "colorama") for name in sys.modules)
assert set(loaded) <= {os.devnull}, loaded
assert dict(os.environ) == before
assert gc.isenabled()
assert "aiohttp.client" not in sys.modules
ssl.SSLContext.set_default_verify_paths = read
import aiohttp
from aiohttp import hdrs
assert hdrs is sys.modules["aiohttp.hdrs"]
assert aiohttp.ClientSession is sys.modules["aiohttp.client"].ClientSession
assert aiohttp.__version__
import aiohttp.web
from lading.api.engine import web
assert aiohttp.web.BaseRequest is web.BaseRequest
settle()
assert gc.get_freeze_count() > 10_000
import rich
"""


def test_a_daemon_imports_no_console_and_no_certificates_and_leaves_the_process_as_it_was() -> None:
    environment = {**os.environ, "PYTHONPATH": SOURCE, "SSL_CERT_DIR": "/etc/ssl/certs"}
    environment.pop("SSL_CERT_FILE", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
