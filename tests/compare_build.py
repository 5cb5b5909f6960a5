#!/usr/bin/env python3
"""Builds the same Dockerfiles with two engines and compares files, modes, owners, configuration and history.

    tests/compare_build.py unix:///run/berth.sock unix:///var/run/docker.sock

Both engines need an image called busybox. The docker command line is used, without BuildKit.
"""

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile

# Name, Dockerfile, and the files of the context: a text is a file, a tuple a symbolic link.
CASES = [
    ("steps", "FROM busybox\nARG V=1\nENV A=$V B=\"two words\"\nRUN echo $A > /out; mkdir -m 711 /d; chown 5:6 /d\n"
     "COPY f /dir/\nWORKDIR /work\nRUN true\nCMD [\"cat\", \"/out\"]\n", {"f": "x"}),
    ("stages", "ARG BASE=busybox\nFROM $BASE AS one\nRUN mkdir /d && echo 1 > /d/f && chown 7:8 /d/f && ln -s f /d/l\n"
     "FROM scratch\nCOPY --from=one /d /kept/\nCOPY --from=one --chown=1:2 /d/f /given\n", {}),
    ("metadata", "FROM busybox\nMAINTAINER someone\nLABEL a=\"b c\" d=e\nEXPOSE 80 443/udp\nVOLUME /v /w\nUSER 5:6\n"
     "STOPSIGNAL SIGINT\nHEALTHCHECK --interval=5s --retries=3 CMD true\nSHELL [\"/bin/sh\", \"-ec\"]\n"
     "ENTRYPOINT echo \"x\"\nCMD [\"a\", \"b\"]\nONBUILD RUN x\n", {}),
    ("links", "FROM busybox\nRUN mkdir -p /real && ln -s /real /abs && ln -s real /rel\nCOPY f /abs/\nCOPY f /rel/g\n"
     "COPY dir /rel/dir\nCOPY l /l\nCOPY dir /new/deep/dir\n",
     {"f": "f", "dir/one": "1", "dir/sub/two": "2", "dir/link": ("../f",), "l": ("f",)}),
    ("removal", "FROM busybox\nRUN mkdir /a && echo 1 > /a/1 && echo 2 > /a/2\nRUN rm /a/1\nRUN rm -r /a && mkdir /a && echo 3 > /a/3\n", {}),
    ("volume", "FROM busybox\nRUN mkdir /v && echo a > /v/a\nVOLUME /v\nRUN echo b > /v/b\nCOPY f /v/c\n", {"f": "f"}),
    ("users", "FROM busybox\nRUN echo 'u:x:5:6::/:' > /etc/passwd && echo 'g:x:9:' > /etc/group\nCOPY --chown=u:g dir /z/\n"
     "COPY --chown=5:9 f /y/deep/f\nUSER u\nWORKDIR /home/sub\nRUN id\n", {"dir/one": "1", "f": "f"}),
    ("wildcards", "FROM busybox\nCOPY s*.txt /w/\nCOPY d?r/* /x/\nADD . /all/\n",
     {"s1.txt": "1", "s2.txt": "2", "dir/a": "a", "dir/sub/b": "b"}),
    ("ignore", "FROM busybox\nCOPY . /c\n",
     {".dockerignore": "*.md\n!README.md\nnode_modules\n**/*.log\n", "a.md": "", "README.md": "", "node_modules/x": "", "s/x.log": "", "s/y": ""}),
    ("archive", "FROM busybox\nADD a.tar.gz plain /x/\nCOPY a.tar.gz /y/\n", {"a.tar.gz": None, "plain": "x"}),
    ("expansion", "FROM busybox\nENV P=a/b Q=${P:-x} R=${N:-def} S=${P:+set} T=\\$P\nWORKDIR /w/$P\nLABEL l=\"$P $Q\"\nCOPY f ${P}/\n", {"f": "f"}),
    ("onbuild", "FROM busybox\nONBUILD COPY f /on\nONBUILD ENV A=1\n", {}),
]


def archive():
    """A small compressed archive whose files belong to somebody."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        entry = tarfile.TarInfo("d/f")
        entry.size, entry.mode, entry.uid, entry.gid, entry.mtime = 2, 0o640, 7, 8, 1_600_000_000
        tar.addfile(entry, io.BytesIO(b"q\n"))
    return out.getvalue()


def docker(host, *words):
    environment = dict(os.environ, DOCKER_HOST=host, DOCKER_BUILDKIT="0")
    done = subprocess.run(["docker", *words], env=environment, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(words)}: {done.stdout.decode()}{done.stderr.decode()}")
    return done.stdout


def files(host, name):
    """All files of an image: kind, mode, owner, link or content, by path."""
    tree = {}
    outer = tarfile.open(fileobj=io.BytesIO(docker(host, "save", name)))
    manifest = json.load(outer.extractfile("manifest.json"))
    for layer in manifest[0]["Layers"]:
        inner = tarfile.open(fileobj=io.BytesIO(outer.extractfile(layer).read()))
        entries = [(e, inner.extractfile(e).read() if e.isfile() else b"") for e in inner]
        for entry, _ in entries:
            parent, base = os.path.split(entry.name)
            if base == ".wh..wh..opq":
                drop(tree, parent, False)
            elif base.startswith(".wh."):
                drop(tree, os.path.join(parent, base[4:]), True)
        for entry, content in entries:
            if not os.path.basename(entry.name).startswith(".wh."):
                path = entry.name.rstrip("/")
                tree[path] = (entry.type, oct(entry.mode & 0o7777), entry.uid, entry.gid, entry.linkname, content)
    return tree


def drop(tree, path, itself):
    for known in list(tree):
        if known.startswith(path + "/") or (itself and known == path):
            del tree[known]


def described(host, name):
    config = json.loads(docker(host, "inspect", name))[0]
    kept = {key: value for key, value in config["Config"].items() if value and key not in ("Hostname", "Image", "ArgsEscaped")}
    steps = docker(host, "history", "--no-trunc", "--format", "{{.CreatedBy}}", name).decode().split("\n")
    steps = [re.sub(r"(file|dir|multi):[0-9a-f]{64}", r"\1:…", step) for step in steps]
    return {"config": kept, "history": steps, "layers": len(config["RootFS"]["Layers"]), "author": config.get("Author", "")}


def difference(ours, theirs):
    for key in sorted(set(ours) | set(theirs)):
        if ours.get(key) != theirs.get(key):
            yield f"  {key}:\n    {ours.get(key)!r}\n    {theirs.get(key)!r}"


def main(first, second):
    failed = 0
    for name, dockerfile, context in CASES:
        with tempfile.TemporaryDirectory() as directory:
            with open(os.path.join(directory, "Dockerfile"), "w", encoding="utf-8") as out:
                out.write(dockerfile)
            for path, content in context.items():
                path = os.path.join(directory, path)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                if isinstance(content, tuple):
                    os.symlink(content[0], path)
                else:
                    with open(path, "wb") as out:
                        out.write(archive() if content is None else content.encode())
            tag = f"compare-{name}"
            for host in (first, second):
                docker(host, "build", "--no-cache", "-t", tag, directory)
            ours, theirs = ({**described(host, tag), **files(host, tag)} for host in (first, second))
            lines = list(difference(ours, theirs))
            print(f"{name}: {'same' if not lines else 'different'}")
            print("\n".join(lines), end="\n" if lines else "")
            failed += bool(lines)
            for host in (first, second):
                docker(host, "rmi", "-f", tag)
    return failed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
