#!/usr/bin/env python3
"""Builds the same Dockerfiles with two engines and compares files, modes, owners, times, configuration and history.

    tests/compare_build.py unix:///run/berth.sock unix:///var/run/docker.sock [CASE...]

Both engines need an image called busybox. The docker command line is used, without BuildKit.
"""

import http.server
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

# When the files of contexts were last changed.
CHANGED = 1_577_934_245

# Name, Dockerfile (or several, where the last one builds upon the others: compare-NAME-0, …), and the files of the
# context: a text is a file, a tuple a symbolic link, a number with a text a file of that mode, a function makes bytes.
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
    ("archive", "FROM busybox\nADD a.tar.gz plain /x/\nCOPY a.tar.gz /y/\n", {"a.tar.gz": lambda: archive("gz"), "plain": "x"}),
    ("expansion", "FROM busybox\nENV P=a/b Q=${P:-x} R=${N:-def} S=${P:+set} T=\\$P\nWORKDIR /w/$P\nLABEL l=\"$P $Q\"\nCOPY f ${P}/\n", {"f": "f"}),
    ("onbuild", "FROM busybox\nONBUILD COPY f /on\nONBUILD ENV A=1\n", {}),
    # What projects have.
    ("node", "FROM busybox AS build\nARG NODE_ENV=production\nENV NODE_ENV=$NODE_ENV\nWORKDIR /app\nCOPY package*.json ./\n"
     "RUN mkdir -p node_modules/.bin node_modules/left-pad && echo 'module' > node_modules/left-pad/index.js \\\n"
     "    && ln -s ../left-pad/index.js node_modules/.bin/pad\nCOPY . .\nRUN cat src/*.js > dist.js\n"
     "FROM busybox\nRUN echo 'node:x:1000:1000::/home/node:/bin/sh' >> /etc/passwd && echo 'node:x:1000:' >> /etc/group\nWORKDIR /home/node/app\nCOPY --from=build --chown=node:node /app ./\n"
     "USER node\nEXPOSE 3000\nHEALTHCHECK --interval=30s --timeout=3s --start-period=5s CMD wget -qO- localhost:3000 || exit 1\n"
     "ENTRYPOINT [\"node\"]\nCMD [\"dist.js\"]\n",
     {"package.json": "{}", "package-lock.json": "{}", "src/a.js": "a", "src/b.js": "b", ".dockerignore": "node_modules\n*.log\n.git\n",
      "node_modules/x/y": "", "npm-debug.log": "", ".git/HEAD": "ref"}),
    ("go", "FROM busybox AS builder\nARG VERSION\nARG COMMIT=none\nWORKDIR /src\nCOPY go.mod go.sum ./\nCOPY cmd cmd\nCOPY internal/ internal/\n"
     "RUN echo \"#!/bin/sh\" > /out && echo \"echo $VERSION $COMMIT\" >> /out && chmod 755 /out\n"
     "FROM scratch\nCOPY --from=builder /out /usr/local/bin/app\nCOPY --from=builder /etc/passwd /etc/passwd\nUSER 65534:65534\n"
     "LABEL org.opencontainers.image.version=1.0 \\\n      org.opencontainers.image.title=\"An app\"\nENTRYPOINT [\"/usr/local/bin/app\"]\n",
     {"go.mod": "module x", "go.sum": "", "cmd/main.go": "package main", "internal/a/a.go": "package a"}),
    ("python", "FROM busybox\nENV PYTHONUNBUFFERED=1 \\\n    VIRTUAL_ENV=/opt/venv\nRUN mkdir -p $VIRTUAL_ENV/bin $VIRTUAL_ENV/lib64 && ln -s lib64 $VIRTUAL_ENV/lib "
     "&& ln -s /bin/busybox $VIRTUAL_ENV/bin/python3 && ln -s python3 $VIRTUAL_ENV/bin/python\nENV PATH=\"$VIRTUAL_ENV/bin:$PATH\"\n"
     "COPY requirements.txt /tmp/\nRUN cp /tmp/requirements.txt /opt/venv/lib/ && rm /tmp/requirements.txt\nCOPY --chown=1000:1000 app /app\nWORKDIR /app\n"
     "USER 1000\nCMD python -m app --port=${PORT:-8000}\n", {"requirements.txt": "x==1", "app/__main__.py": "1", "app/pkg/__init__.py": ""}),
    ("apt", "FROM busybox\n# packages\nRUN set -eux; \\\n    mkdir -p /var/lib/apt/lists/partial /var/cache/apt; \\\n# a comment in between\n"
     "    echo list > /var/lib/apt/lists/a; \\\n    echo deb > /var/cache/apt/b\nRUN rm -rf /var/lib/apt/lists/* /var/cache/apt\n"
     "RUN mkdir /var/cache/apt && touch -d '2001-02-03 04:05:06' /var/cache/apt/new\n", {}),
    ("nginx", "FROM busybox\nRUN echo 'nginx:x:101:101::/var/cache/nginx:/sbin/nologin' >> /etc/passwd && echo 'nginx:x:101:' >> /etc/group\n"
     "RUN mkdir -p /var/log/nginx && ln -sf /dev/stdout /var/log/nginx/access.log && ln -sf /dev/stderr /var/log/nginx/error.log\n"
     "COPY docker-entrypoint.sh /\nCOPY conf.d/ /etc/nginx/conf.d/\nENTRYPOINT [\"/docker-entrypoint.sh\"]\nEXPOSE 80 443\nSTOPSIGNAL SIGQUIT\n"
     "VOLUME [\"/var/cache/nginx\", \"/etc/nginx\"]\nCMD [\"nginx\", \"-g\", \"daemon off;\"]\n",
     {"docker-entrypoint.sh": (0o755, "#!/bin/sh\nexec \"$@\"\n"), "conf.d/default.conf": "server {}"}),
    ("java", "ARG BASE=busybox\nFROM ${BASE} AS layers\nARG JAR_FILE=target/*.jar\nCOPY ${JAR_FILE} app.jar\nRUN mkdir -p dependencies/lib application && echo x > dependencies/lib/a.jar "
     "&& echo y > application/Main.class\nFROM ${BASE}\nCOPY --from=layers dependencies/ ./\nCOPY --from=layers application/ ./\nENV JAVA_OPTS=\"-Xmx1g -Dx='y z'\"\n"
     "ENTRYPOINT exec java $JAVA_OPTS Main\n", {"target/app-1.0.jar": "jar"}),
    ("onbuild-chain", ["FROM busybox\nONBUILD ARG WHO=nobody\nONBUILD COPY *.txt /on/\nONBUILD RUN echo $WHO > /who; ls /on > /list\nONBUILD USER 7\nONBUILD CMD [\"x\"]\n",
                       "FROM compare-onbuild-chain-0\nENV AFTER=1\nRUN id -u > /tmp/id\n"], {"a.txt": "a", "b.txt": "b"}),
    ("postgres", "FROM busybox\nRUN set -eux; echo 'postgres:x:70:70::/var/lib/postgresql:/bin/sh' >> /etc/passwd; echo 'postgres:x:70:' >> /etc/group; "
     "mkdir -p /var/lib/postgresql; chown -R postgres:postgres /var/lib/postgresql\nENV LANG=en_US.utf8 PGDATA=/var/lib/postgresql/data\n"
     "RUN mkdir -p /var/run/postgresql && chown postgres:postgres /var/run/postgresql && chmod 3777 /var/run/postgresql && mkdir -p \"$PGDATA\" && chown -R postgres:postgres \"$PGDATA\" && chmod 1777 \"$PGDATA\"\n"
     "VOLUME /var/lib/postgresql/data\nCOPY docker-entrypoint.sh /usr/local/bin/\nRUN chmod +x /usr/local/bin/docker-entrypoint.sh && ln -s usr/local/bin/docker-entrypoint.sh /\n"
     "STOPSIGNAL SIGINT\nEXPOSE 5432\nENTRYPOINT [\"docker-entrypoint.sh\"]\nCMD [\"postgres\"]\n", {"docker-entrypoint.sh": "#!/bin/sh\n"}),
    ("modes", "FROM busybox\nRUN mkdir -m 1777 /t && mkdir -m 2750 /g && cp /bin/busybox /su && chmod 4755 /su && mkdir -m 700 /root2 && touch /root2/f && chown -R 12:34 /root2\n"
     "RUN chmod 711 /root2 && chown 0:5 /g && echo 1 >> /root2/f\nCOPY script plain /s/\nCOPY d /s/d\n",
     {"script": (0o755, "x"), "plain": (0o600, "y"), "d/a": (0o444, "a"), "d/e": (0o777, "e")}),
    ("renames", "FROM busybox\nRUN mkdir -p /a/b/c && echo 1 > /a/b/c/f && echo 2 > /a/g && ln /a/g /a/h\nRUN mv /a /z\nRUN mv /z/b /y && ln /z/g /z/i\n"
     "RUN rm -rf /y && echo file > /y\nRUN rm /y && mkdir /y && echo 3 > /y/f\nRUN ln -sfn /z /l && mv /z/h /l/k\n", {}),
    ("archives", "FROM busybox\nADD a.tar.gz /gz/\nADD a.tar.bz2 /bz2\nADD a.tar.xz /xz/deep/\nADD a.tar /\nADD notatar.gz empty.tar.gz /no/\n",
     {"a.tar.gz": lambda: archive("gz"), "a.tar.bz2": lambda: archive("bz2"), "a.tar.xz": lambda: archive("xz"), "a.tar": lambda: archive(""),
      "notatar.gz": "this is no archive", "empty.tar.gz": ""}),
    ("ignore-exceptions", "FROM busybox\nCOPY . /c\nCOPY sub/deep /d/\n",
     {".dockerignore": "# comment\n*\n!src\n!*.md\nsrc/**/test\n!sub/deep/keep*\n**/secret\n\n   \n!/other/./x/../y\n", "a.md": "", "b.txt": "", "src/a": "", "src/test/x": "",
      "src/p/test/y": "", "src/p/secret": "", "src/p/ok": "", "sub/deep/keep1": "", "sub/deep/no": "", "sub/x": "", "other/y": "", "other/z": ""}),
    ("symlinks", "FROM busybox\nRUN mkdir /target && ln -s /target /dirlink && ln -s nowhere /dangling && echo f > /target/f && ln -s /target/f /filelink\n"
     "COPY f /dirlink/sub/\nCOPY f /filelink\nCOPY tree /dirlink/tree/\nCOPY tree/ /\nCOPY inner /i\nCOPY inner/ /j/\n",
     {"f": "new", "tree/x/y": "y", "tree/abs": ("/etc/passwd",), "tree/rel": ("x/y",), "tree/dir": ("x",), "inner": ("tree/x",)}),
    ("words", "from busybox\nENV old form of it\nENV a=hello\nENV a=bye d=$a q='$a' r=\"$a b\" s=x\\ y\nENV g=$a\nLABEL \"multi word\"=\"two  blanks\" b=${d%l*}x c='single \"q\"'\n"
     "EXPOSE 8000-8003 $a${NOPE:-53}/udp\nWORKDIR /$a\nWORKDIR rel/../$d\nCMD echo   \"two  blanks\" $HOME\nRUN [\"/bin/sh\", \"-c\", \"echo $a > /exec\"]\n"
     "COPY [\"with blank\", \"/with blank/\"]\nCOPY arr[[]0].txt /arr/\nSTOPSIGNAL ${SIG:-9}\nUSER ${U:-3}:${G:-4}\n".replace("${d%l*}", "$d").replace("$a${NOPE:-53}", "${NOPE:-53}"),
     {"with blank": "x", "arr[0].txt": "y"}),
    ("entrypoint", "FROM busybox\nCMD [\"one\"]\nENTRYPOINT [\"two\"]\nSHELL [\"/bin/ash\", \"-c\"]\nRUN echo $0 > /shell\nCMD three\nHEALTHCHECK NONE\n", {}),
    ("entrypoint-resets", ["FROM busybox\nCMD [\"one\"]\n", "FROM compare-entrypoint-resets-0\nENTRYPOINT [\"two\"]\n"], {}),
    ("many", "FROM busybox\nCOPY . /many/\nRUN find /many -type f | wc -l > /count\n", {f"{n % 40}/{n}": str(n) for n in range(2_000)}),
    ("add-url", "FROM busybox\nADD URL/file.txt /u/\nADD URL/file.txt /v\nADD URL/a.tar /w/\n", {}),
]


def archive(compression):
    """A small archive whose files belong to somebody."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{compression}") as tar:
        def add(name, mode, kind=tarfile.REGTYPE, link="", content=b""):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.uid, entry.gid, entry.mtime = len(content), mode, 7, 8, 1_600_000_000
            entry.type, entry.linkname = kind, link
            tar.addfile(entry, io.BytesIO(content))
        add("d", 0o751, tarfile.DIRTYPE)
        add("d/f", 0o640, content=b"q\n")
        add("d/hard", 0o640, tarfile.LNKTYPE, "d/f")
        add("d/soft", 0o777, tarfile.SYMTYPE, "/etc/passwd")
        add("d/setuid", 0o4711, content=b"s")
    return out.getvalue()


class Files(http.server.BaseHTTPRequestHandler):
    """What `ADD` fetches."""

    def do_GET(self):
        body = archive("") if self.path.endswith(".tar") else b"from afar\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


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
                # What a step has just made is dated by when it ran, and Docker puts files of its own into /etc.
                changed = "now" if entry.mtime > time.time() - 3600 or path == "etc" else entry.mtime
                tree[path] = (entry.type, oct(entry.mode & 0o7777), entry.uid, entry.gid, entry.linkname, content, changed)
    return tree


def drop(tree, path, itself):
    for known in list(tree):
        if known.startswith(path + "/") or (itself and known == path):
            del tree[known]


def described(host, name):
    config = json.loads(docker(host, "inspect", name))[0]
    kept = {key: value for key, value in config["Config"].items() if value and key not in ("Hostname", "Image", "ArgsEscaped")}
    steps = docker(host, "history", "--no-trunc", "--format", "{{.CreatedBy}}", name).decode().split("\n")
    steps = [re.sub(r"((?:file|dir|multi):|ADD )[0-9a-f]{64}", r"\1…", step) for step in steps]
    return {"config": kept, "history": steps, "layers": len(config["RootFS"]["Layers"]), "author": config.get("Author", "")}


def difference(ours, theirs):
    for key in sorted(set(ours) | set(theirs)):
        if ours.get(key) != theirs.get(key):
            yield f"  {key}:\n    {ours.get(key)!r}\n    {theirs.get(key)!r}"


def write_context(directory, context):
    for path, content in context.items():
        path = os.path.join(directory, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        match content:
            case (mode, text):
                pass
            case (target,):
                os.symlink(target, path)
                os.utime(path, (CHANGED, CHANGED), follow_symlinks=False)
                continue
            case _:
                mode, text = 0o644, content
        data = text() if callable(text) else text.encode()
        with open(path, "wb") as out:
            out.write(data)
        os.chmod(path, mode)
        os.utime(path, (CHANGED, CHANGED))
    for parent, _, _ in os.walk(directory):
        os.utime(parent, (CHANGED, CHANGED))


def compare(hosts, name, dockerfiles, context):
    """Prints how the two differ. Gives whether they do."""
    tags = []
    with tempfile.TemporaryDirectory() as directory:
        for number, text in enumerate(dockerfiles):
            with open(os.path.join(directory, "Dockerfile"), "w", encoding="utf-8") as out:
                out.write(text)
            write_context(directory, context)
            tags.append(f"compare-{name}" + ("" if number == len(dockerfiles) - 1 else f"-{number}"))
            for host in hosts:
                docker(host, "build", "--no-cache", "-t", tags[-1], directory)
    ours, theirs = ({**described(host, tags[-1]), **files(host, tags[-1])} for host in hosts)
    lines = list(difference(ours, theirs))
    print(f"{name}: {'same' if not lines else 'different'}", flush=True)
    print("\n".join(lines), end="\n" if lines else "")
    for host in hosts:
        for tag in reversed(tags):
            docker(host, "rmi", "-f", tag)
    return bool(lines)


def main(first, second, *names):
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{web.server_port}"
    failed = 0
    for name, dockerfiles, context in CASES:
        if names and name not in names:
            continue
        if isinstance(dockerfiles, str):
            dockerfiles = [dockerfiles]
        try:
            failed += compare((first, second), name, [text.replace("URL", url) for text in dockerfiles], context)
        except RuntimeError as error:
            failed += 1
            print(f"{name}: {error}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
