#!/usr/bin/env python3
"""Times builds by one engine or several, one after the other.

    tests/bench_build.py [--n N] [--only NAME] unix:///run/berth.sock [unix:///var/run/docker.sock ...]

Each engine needs an image called busybox. Python's standard library is all it takes. Medians, with the least and the most
in brackets, in milliseconds.
"""

import argparse
import http.client
import io
import os
import socket
import statistics
import tarfile
import time

STEPS = """FROM busybox
ENV A=1 B=two
WORKDIR /app
COPY hello.txt /app/hello.txt
RUN echo built > /app/built.txt
RUN mkdir -p /app/d && for i in 1 2 3 4 5 6 7 8 9 10; do echo $i > /app/d/$i; done
RUN cat /app/hello.txt /app/built.txt > /app/both.txt
CMD ["cat", "/app/both.txt"]
"""
FILES = "FROM busybox\nCOPY files /files\n"
UPLOAD = "FROM busybox\nCOPY small /small\n"
STAGES = "".join(f"FROM busybox AS s{n}\nRUN sleep 1; echo {n} > /{n}\n" for n in range(4)) + "FROM scratch\n" + "".join(
    f"COPY --from=s{n} /{n} /{n}\n" for n in range(4))


class Unix(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=600)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def context(dockerfile, files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in {"Dockerfile": dockerfile.encode(), **files}.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(data), 1_577_934_245
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def build(host, body, cached):
    """Milliseconds from the request to the end of the answer."""
    connection = Unix(host.removeprefix("unix://"))
    start = time.perf_counter()
    connection.request("POST", f"/build?t=bench/build&rm=1&forcerm=1&nocache={0 if cached else 1}", body, {"Content-Type": "application/x-tar"})
    answer = connection.getresponse().read()
    took = (time.perf_counter() - start) * 1000
    connection.close()
    if b"Successfully built" not in answer:
        raise SystemExit(answer[-500:].decode())
    return took


def small_files():
    return {f"files/{n % 100}/{n}": f"file {n}\n".encode() * 20 for n in range(20_000)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--only", default="")
    parser.add_argument("hosts", nargs="+")
    args = parser.parse_args()
    cases = [
        ("six small steps, no cache", STEPS, lambda: {"hello.txt": b"hello\n"}, False, args.n),
        ("six small steps, cached", STEPS, lambda: {"hello.txt": b"hello\n"}, True, args.n),
        ("COPY of 20,000 small files", FILES, small_files, False, max(3, args.n // 3)),
        ("context of 500 MB, one small file used", UPLOAD, lambda: {"large": os.urandom(500 << 20), "small": b"x"}, False, 3),
        ("four stages of one second", STAGES, lambda: {}, False, 3),
    ]
    for name, dockerfile, files, cached, times in cases:
        if args.only not in name:
            continue
        body = context(dockerfile, files())
        medians = []
        for host in args.hosts:
            build(host, body, cached)
            took = [build(host, body, cached) for _ in range(times)]
            medians.append(statistics.median(took))
            print(f"{name}: {host}: {medians[-1]:.1f} ({min(took):.1f} - {max(took):.1f}), n = {times}", flush=True)
        for other in medians[1:]:
            print(f"{name}: ratio {other / medians[0]:.1f}", flush=True)
    for host in args.hosts:
        connection = Unix(host.removeprefix("unix://"))
        connection.request("DELETE", "/images/bench/build?force=1")
        connection.getresponse().read()


if __name__ == "__main__":
    main()
