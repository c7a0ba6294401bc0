"""What a pull costs on this machine at the least: receive, hash, keep, inflate, hash, write, by C calls on large buffers.

    python bench/floor.py HOST IMAGE DIRECTORY

No tar is parsed and nothing is recorded; a blob is flushed, as every store should. A layer has three threads, which is what keeps both
cores busy, and four layers go at a time. Prints wall and CPU seconds, without the start of the interpreter.
"""

import concurrent.futures
import ctypes
import hashlib
import http.client
import json
import os
import pathlib
import queue
import sys
import time

from isal import igzip_lib

BUFFER = 256 << 10
LAYERS = 4
_KEEP_SIZE = 1
_TYPES = "application/vnd.oci.image"
_libc = ctypes.CDLL(None)


def _get(host: str, path: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(host)
    connection.request("GET", path, headers={"Accept": f"{_TYPES}.index.v1+json, {_TYPES}.manifest.v1+json"})
    return connection.getresponse()


def _new(path: pathlib.Path, size: int) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    _libc.fallocate(fd, _KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(size))
    return fd


def layer(host: str, image: str, digest: str, size: int, directory: pathlib.Path) -> None:
    """One layer, from the registry to a blob and a tar stream on the disk. Raises `AssertionError` for another digest."""
    arrived: queue.Queue[int] = queue.Queue()
    chunks: queue.Queue[bytes] = queue.Queue(16)
    blob = _new(directory / f"{digest[7:]}.blob", size)

    def receive() -> None:
        response, buffer, hasher = _get(host, f"/v2/{image}/blobs/{digest}"), memoryview(bytearray(BUFFER)), hashlib.sha256()  # fmt: skip
        try:
            while count := response.readinto(buffer):
                hasher.update(buffer[:count])
                os.write(blob, buffer[:count])
                arrived.put(count)
        finally:
            arrived.put(0)
        assert hasher.hexdigest() == digest[7:]
        os.fsync(blob)

    def inflate() -> None:
        engine, offset, reader = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP), 0, os.dup(blob)
        while count := arrived.get():
            data = os.pread(reader, count, offset)
            offset += count
            while not engine.eof:
                if chunk := engine.decompress(data, BUFFER):
                    chunks.put(chunk)
                if engine.needs_input:
                    break
                data = b""
        chunks.put(b"")

    def write() -> None:
        hasher, tar = hashlib.sha256(), _new(directory / f"{digest[7:]}.tar", 5 * size)
        while chunk := chunks.get():
            hasher.update(chunk)
            os.write(tar, chunk)
        os.ftruncate(tar, os.lseek(tar, 0, os.SEEK_CUR))

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for each in [pool.submit(work) for work in (receive, inflate, write)]:
            each.result()


def main(host: str, image: str, directory: pathlib.Path) -> None:
    begun, cpu = time.perf_counter(), time.process_time()
    manifest = json.load(_get(host, f"/v2/{image}/manifests/latest"))
    if "manifests" in manifest:
        manifest = json.load(_get(host, f"/v2/{image}/manifests/{manifest['manifests'][0]['digest']}"))
    with concurrent.futures.ThreadPoolExecutor(LAYERS) as pool:
        for _ in pool.map(
            lambda each: layer(host, image, each["digest"], each["size"], directory), manifest["layers"]
        ):
            pass
    print(json.dumps([time.perf_counter() - begun, time.process_time() - cpu]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]))
