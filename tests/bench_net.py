#!/usr/bin/env python3
"""What networks cost: the same work through the same clients against one engine, or one after the other.

    tests/bench_net.py unix:///run/berth.sock [--compose /path/of/docker-compose] [--pid PID of the engine]
    tests/bench_net.py unix:///run/docker.sock --compose … --pid …

Needs root, an image `busybox` on the engine, and Python 3.9. Prints the median, the least and the most of each figure.
With --pid it also prints by how much the engine's memory (PSS, all its processes with --tree) grows with 1,000 ports.
--netns PATH: the engine lives in this network namespace, and so do the connections to its ports.
"""
import argparse
import json
import os
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.parse


class Api:
    """The Engine API over one unix socket."""

    def __init__(self, path):
        self.path = path

    def call(self, method, path, body=None):
        """One request on a connection of its own; gives the answer's JSON."""
        data = json.dumps(body).encode() if body is not None else b""
        head = f"{method} /v1.41{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(data)}\r\n"
        head += "Content-Type: application/json\r\n\r\n"
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(300)
            stream.connect(self.path)
            stream.sendall(head.encode() + data)
            answer = stream.makefile("rb").read()
        head, _, text = answer.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        if b"chunked" in head.lower():
            whole = b""
            while text:
                size, _, text = text.partition(b"\r\n")
                if not int(size, 16):
                    break
                whole += text[:int(size, 16)]
                text = text[int(size, 16) + 2:]
            text = whole
        if status >= 400:
            raise RuntimeError(f"{method} {path}: {status} {text!r}")
        return json.loads(text) if text.strip() else None

    def create(self, words, **host):
        body = {"Image": "busybox", "Cmd": words, "HostConfig": host}
        ports = host.get("PortBindings") or {}
        body["ExposedPorts"] = {port: {} for port in ports}
        return self.call("POST", "/containers/create", body)["Id"]

    def remove(self, container):
        self.call("DELETE", f"/containers/{container}?force=1")


def timed(work, *more):
    """Milliseconds that it takes."""
    start = time.perf_counter()
    work(*more)
    return (time.perf_counter() - start) * 1000


def show(name, values, unit="ms"):
    print(f"{name:58} {statistics.median(values):10.1f} {unit}  ({min(values):.1f} - {max(values):.1f}, n = {len(values)})", flush=True)


def starts(api, count, **host):
    values = []
    for _ in range(count):
        container = api.create(["sleep", "1000"], **host)
        values.append(timed(api.call, "POST", f"/containers/{container}/start"))
        api.remove(container)
    return values


def networks(api, count):
    made, removed = [], []
    for number in range(count):
        made.append(timed(api.call, "POST", "/networks/create", {"Name": f"bench{number}", "CheckDuplicate": True}))
    for number in range(count):
        removed.append(timed(api.call, "DELETE", f"/networks/bench{number}"))
    return made, removed


def pss(pid):
    """Memory of a process and its children, in KiB."""
    total, waiting = 0, [int(pid)]
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat", encoding="utf-8") as file:
                    children.setdefault(int(file.read().rsplit(")", 1)[1].split()[1]), []).append(int(entry))
            except OSError:
                pass
    while waiting:
        one = waiting.pop()
        waiting += children.get(one, [])
        try:
            with open(f"/proc/{one}/smaps_rollup", encoding="utf-8") as file:
                total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
        except OSError:
            pass
    return total


def thousand(api, pid, count):
    bindings = {f"{port}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(20000 + port)}] for port in range(1, count + 1)}
    container = api.create(["sleep", "1000"], PortBindings=bindings)
    before = pss(pid) if pid else 0
    started = timed(api.call, "POST", f"/containers/{container}/start")
    grown = pss(pid) - before if pid else 0
    gone = timed(api.remove, container)
    show(f"start with {count} published ports", [started])
    show(f"forced removal with {count} published ports", [gone])
    if pid:
        print(f"{'memory for them (PSS)':58} {grown / 1024:10.1f} MiB", flush=True)


SINK = "import socket,sys,time\ns=socket.create_connection((sys.argv[1],int(sys.argv[2])))\nn=0\nb=bytearray(1<<20)\nt=time.perf_counter()\n" \
       "while time.perf_counter()-t<float(sys.argv[3]):\n k=s.recv_into(b)\n if not k: break\n n+=k\nprint(n*8/1e9/(time.perf_counter()-t))"


def throughput(api, netns, seconds):
    """Gbit/s from a container through its published port, and to its own address for comparison."""
    container = api.create(["sh", "-c", "while :; do nc -l -p 80 -e cat /dev/zero; done"],
                           PortBindings={"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "21999"}]})
    api.call("POST", f"/containers/{container}/start")
    time.sleep(1)
    address = api.call("GET", f"/containers/{container}/json")["NetworkSettings"]["IPAddress"]
    for name, host, port in (("to the container's own address", address, "80"), ("through a published port on 127.0.0.1", "127.0.0.1", "21999")):
        words = (["nsenter", f"--net={netns}"] if netns else []) + ["python3", "-c", SINK, host, port, str(seconds)]
        rates = []
        for _ in range(3):
            rates.append(float(subprocess.run(words, capture_output=True, text=True, check=True).stdout))
            time.sleep(0.3)
        show(name, rates, "Gbit/s")
    api.remove(container)


def compose(program, host, services):
    with tempfile.TemporaryDirectory() as directory:
        with open(f"{directory}/compose.yaml", "w", encoding="utf-8") as file:
            file.write("name: bench\nservices:\n")
            for number in range(services):
                file.write(f"  s{number}:\n    image: busybox\n    command: sleep 1000\n    stop_signal: SIGKILL\n")
        up, down = [], []
        for _ in range(3):
            for words, values in ((["up", "-d"], up), (["down"], down)):
                values.append(timed(lambda words=words: subprocess.run(
                    [program, *words], cwd=directory, env={**os.environ, "DOCKER_HOST": host}, capture_output=True, check=True)))
        show(f"compose up of {services} services", up)
        show("compose down", down)


def main():
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    parser.add_argument("--compose")
    parser.add_argument("--pid")
    parser.add_argument("--netns")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--ports", type=int, default=1000)
    given = parser.parse_args()
    api = Api(urllib.parse.urlparse(given.host).path)
    starts(api, 2)
    show("start without a network", starts(api, given.count, NetworkMode="none"))
    show("start on the default bridge", starts(api, given.count))
    show("start with a published port", starts(api, given.count, PortBindings={"80/tcp": [{"HostPort": ""}]}))
    api.call("POST", "/networks/create", {"Name": "bench"})
    show("start on a network of users", starts(api, given.count, NetworkMode="bench"))
    api.call("DELETE", "/networks/bench")
    made, removed = networks(api, given.count)
    show("network create", made)
    show("network remove", removed)
    thousand(api, given.pid, given.ports)
    throughput(api, given.netns, 2)
    if given.compose:
        compose(given.compose, given.host, 10)


if __name__ == "__main__":
    main()
