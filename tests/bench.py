#!/usr/bin/env python3
"""The same work against Berth and, if its socket is given, Docker; medians, spread and ratios.

    tests/bench.py target/release/berthd                                   # Berth alone
    tests/bench.py target/release/berthd --docker /run/docker.sock         # both, one after the other
    tests/bench.py target/release/berthd --quick                           # fewer repetitions

Needs root, busybox (static) and Python 3.9; talks to the Docker Engine API over unix sockets and to nothing else. Figures
are only comparable within one run on a quiet machine. Exit code 1: a figure of Berth misses its target.
"""
import argparse, hashlib, io, json, os, random, shutil, signal, socket, statistics, struct, subprocess, sys, tarfile
import tempfile, threading, time, urllib.parse

IMAGE = 'berth-bench:busybox'


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status, text):
        super().__init__(f'{status} {text[:200]!r}')
        self.status = status


class Api:
    """One connection that is kept."""

    def __init__(self, path):
        self.path, self.sock, self.file = path, None, None

    def open(self):
        self.close()
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(300)
        self.sock.connect(self.path)
        self.file = self.sock.makefile('rb', 1 << 18)

    def close(self):
        if self.sock:
            self.file.close()
            self.sock.close()
        self.sock = None

    def send(self, method, path, body=None, kind='application/json', upgrade=False):
        if self.sock is None:
            self.open()
        if body is not None and not isinstance(body, (bytes, bytearray)):
            body = json.dumps(body).encode()
        head = f'{method} {path} HTTP/1.1\r\nHost: engine\r\n'
        if body:
            head += f'Content-Type: {kind}\r\n'
        if upgrade:
            head += 'Connection: Upgrade\r\nUpgrade: tcp\r\n'
        if method != 'GET' or body:
            head += f'Content-Length: {len(body or b"")}\r\n'
        self.sock.sendall(head.encode() + b'\r\n')
        if body:
            self.sock.sendall(body)

    def head(self):
        line = self.file.readline()
        if not line:
            raise ConnectionError('the connection was closed')
        headers = {}
        while (text := self.file.readline().strip()):
            name, _, value = text.decode('latin1').partition(':')
            headers[name.lower()] = value.strip()
        return int(line.split()[1]), headers

    def pieces(self, status, headers):
        if status in (204, 304):
            return
        if 'chunked' in headers.get('transfer-encoding', ''):
            while (size := int(self.file.readline().split(b';')[0], 16)):
                while size:
                    data = self.file.read1(min(size, 1 << 18))
                    size -= len(data)
                    yield data
                self.file.readline()
            self.file.readline()
        elif 'content-length' in headers:
            left = int(headers['content-length'])
            while left:
                data = self.file.read1(min(left, 1 << 18))
                left -= len(data)
                yield data
        else:
            while (data := self.file.read1(1 << 18)):
                yield data
            self.close()

    def call(self, method, path, body=None, kind='application/json', sink=None):
        self.send(method, path, body, kind)
        status, headers = self.head()
        if sink and status < 400:
            count = 0
            for data in self.pieces(status, headers):
                count += len(data)
            return count
        data = b''.join(self.pieces(status, headers))
        if status >= 400:
            raise Refused(status, data)
        if 'json' in headers.get('content-type', '') and data:
            try:
                return json.loads(data)
            except ValueError:
                pass
        return data

    def get(self, path, **more):
        return self.call('GET', path, **more)

    def post(self, path, body=None, **more):
        return self.call('POST', path, body, **more)

    def create(self, words, **host):
        body = {'Image': IMAGE, 'Cmd': words, 'HostConfig': {'NetworkMode': 'none', **host}}
        return self.post('/containers/create', body)['Id']

    def run(self, words):
        name = self.create(words)
        self.post(f'/containers/{name}/start')
        return name

    def remove(self, name):
        self.call('DELETE', f'/containers/{name}?force=1&v=1')


def busybox_image():
    """An archive as `docker save` writes it."""
    program = shutil.which('busybox') or sys.exit('busybox is not installed: apt-get install busybox-static')
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode='w') as tar:
        data = open(program, 'rb').read()
        entry = tarfile.TarInfo('bin/busybox')
        entry.mode, entry.size = 0o755, len(data)
        tar.addfile(entry, io.BytesIO(data))
        for name in subprocess.run([program, '--list'], capture_output=True, text=True).stdout.split():
            if name != 'busybox':
                entry = tarfile.TarInfo(f'bin/{name}')
                entry.type, entry.linkname, entry.mode = tarfile.LNKTYPE, 'bin/busybox', 0o755
                tar.addfile(entry)
    return archive(IMAGE, [layer.getvalue()])


def archive(tag, layers):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w') as tar:
        def add(name, data):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        config = json.dumps({
            'architecture': 'arm64' if os.uname().machine == 'aarch64' else 'amd64', 'os': 'linux',
            'config': {'Env': ['PATH=/bin'], 'Cmd': ['sh']},
            'rootfs': {'type': 'layers', 'diff_ids': ['sha256:' + hashlib.sha256(l).hexdigest() for l in layers]},
        }).encode()
        name = hashlib.sha256(config).hexdigest() + '.json'
        add(name, config)
        for number, layer in enumerate(layers):
            add(f'{number}/layer.tar', layer)
        names = [f'{number}/layer.tar' for number in range(len(layers))]
        add('manifest.json', json.dumps([{'Config': name, 'RepoTags': [tag], 'Layers': names}]).encode())
    return out.getvalue()


def files(seed, count, size):
    """A tar of files that do not compress."""
    source = random.Random(seed)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w') as tar:
        for number in range(count):
            entry = tarfile.TarInfo(f'd{number % 100}/f{number}')
            entry.size, entry.mode = size, 0o644
            tar.addfile(entry, io.BytesIO(source.randbytes(size)))
    return out.getvalue()


def timed(do):
    begin = time.perf_counter()
    do()
    return (time.perf_counter() - begin) * 1000


def memory(match):
    """PSS in MiB of all processes whose command line contains one of the words."""
    total = 0
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            line = open(f'/proc/{pid}/cmdline').read()
            if any(word in line for word in match) and 'bench.py' not in line:
                for row in open(f'/proc/{pid}/smaps_rollup'):
                    if row.startswith('Pss:'):
                        total += int(row.split()[1])
        except OSError:
            pass
    return total / 1024


class Bench:
    """The work, each figure a list of values."""

    def __init__(self, path, match, runs, seed, live=100):
        self.path, self.match, self.runs, self.seed, self.live_count = path, match, runs, seed, live
        self.api, self.figures = Api(path), {}

    def note(self, name, values):
        self.figures.setdefault(name, []).extend(values if isinstance(values, list) else [values])

    def at_once(self, work, count, clients=8):
        """Seconds until `count` pieces of work are done by this many clients."""
        todo, lock, errors = iter(range(count)), threading.Lock(), []

        def client():
            api = Api(self.path)
            try:
                while True:
                    with lock:
                        if next(todo, None) is None:
                            return
                    work(api)
            except Exception as error:  # shown by whoever waits
                errors.append(error)
            finally:
                api.close()
        threads = [threading.Thread(target=client) for _ in range(clients)]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return time.perf_counter() - begin

    def all(self):
        self.api.post('/images/load', busybox_image(), kind='application/x-tar')
        for work in (self.idle, self.lifecycle, self.parallel, self.execs, self.events, self.logs, self.images, self.archives,
                     self.live):
            try:
                work()
            except Refused as refusal:
                print(f'  {work.__name__}: not measured: {refusal}', file=sys.stderr)
                self.api.close()

    def idle(self):
        time.sleep(1.5)
        self.note('memory of the idle engine, MiB', memory(self.match))

    def lifecycle(self):
        for _ in range(self.runs * 3):
            begin = time.perf_counter()
            made = {}
            name = None

            def create():
                nonlocal name
                name = self.api.create(['true'])
            made['create'] = timed(create)
            made['start'] = timed(lambda: self.api.post(f'/containers/{name}/start'))
            made['wait'] = timed(lambda: self.api.post(f'/containers/{name}/wait'))
            made['remove'] = timed(lambda: self.api.remove(name))
            self.note('create, start, wait, remove: ms', (time.perf_counter() - begin) * 1000)
            for step, value in made.items():
                self.note(f'- {step}, ms', value)

    def parallel(self):
        def life(api):
            name = api.run(['true'])
            api.post(f'/containers/{name}/wait')
            api.remove(name)
        count = self.runs * 8
        for _ in range(3):
            self.note('lives, 8 at a time: per second', count / self.at_once(life, count))

    def execs(self):
        name = self.api.run(['sleep', '3600'])
        try:
            def one():
                made = self.api.post(f'/containers/{name}/exec', {'Cmd': ['true'], 'AttachStdout': True})['Id']
                api = Api(self.path)
                api.send('POST', f'/exec/{made}/start', {'Detach': False}, upgrade=True)
                status, _ = api.head()
                if status >= 400:
                    raise Refused(status, b'exec start')
                while api.file.read1(1 << 16):
                    pass
                api.close()
                self.api.get(f'/exec/{made}/json')
            for _ in range(self.runs * 3):
                self.note('exec create, start attached, inspect: ms', timed(one))
        finally:
            self.api.remove(name)

    def events(self):
        listener = Api(self.path)
        listener.send('GET', '/events?filters=' + urllib.parse.quote('{"event":["rename"]}'))
        status, headers = listener.head()
        stream = listener.pieces(status, headers)
        name = self.api.create(['true'])
        for number in range(self.runs * 3):
            def one():
                self.api.post(f'/containers/{name}/rename?name=bench{number}')
                next(stream)
            self.note('event of a rename: ms', timed(one))
        listener.close()
        self.api.remove(name)

    def logs(self):
        size = 100 << 20
        line = 'x' * 99
        for _ in range(max(2, self.runs // 7)):
            name = self.api.create(['sh', '-c', f'yes {line} | head -c {size}'])
            self.api.post(f'/containers/{name}/start')
            taken = timed(lambda: self.api.post(f'/containers/{name}/wait'))
            self.note('log written, MB/s', size / 1000 / taken)
            path = f'/containers/{name}/logs?stdout=1'
            begin = time.perf_counter()
            count = self.api.get(path, sink=True)
            self.note('log read back, MB/s', count / 1e6 / (time.perf_counter() - begin))
            self.note('last 10 lines of it: ms', timed(lambda: self.api.get(path + '&tail=10', sink=True)))
            self.api.remove(name)

    def images(self):
        layers = [files(f'{self.seed}{number}', 2000, 20_000) for number in range(4)]
        tar = archive('berth-bench:big', layers)
        for _ in range(max(2, self.runs // 7)):
            taken = timed(lambda: self.api.post('/images/load', tar, kind='application/x-tar'))
            self.note('image loaded, MB/s', len(tar) / 1000 / taken)
            begin = time.perf_counter()
            count = self.api.get('/images/berth-bench:big/get', sink=True)
            self.note('image saved, MB/s', count / 1e6 / (time.perf_counter() - begin))
            self.api.call('DELETE', '/images/berth-bench:big?force=1')

    def archives(self):
        name = self.api.create(['true'])
        try:
            for kind, count, size in (('one file', 1, 200 << 20), ('10,000 files', 10_000, 5_000)):
                tar = files(self.seed, count, size)
                for _ in range(max(2, self.runs // 7)):
                    path = f'/containers/{name}/archive?path=/'
                    taken = timed(lambda: self.api.call('PUT', path, tar, kind='application/x-tar'))
                    self.note(f'archive of {kind} in, MB/s', len(tar) / 1000 / taken)
                    begin = time.perf_counter()
                    source = urllib.parse.quote('/d0/f0' if count == 1 else '/')
                    got = self.api.get(f'/containers/{name}/archive?path={source}', sink=True)
                    self.note(f'archive of {kind} out, MB/s', got / 1e6 / (time.perf_counter() - begin))
        finally:
            self.api.remove(name)

    def live(self):
        count = self.live_count
        before = memory(self.match)
        names, lock = [], threading.Lock()

        def one(api):
            name = api.run(['sleep', '3600'])
            with lock:
                names.append(name)
        self.note(f'{count} containers started, 4 at a time: s', self.at_once(one, count, 4))
        time.sleep(2)
        self.note('memory of each running container, MiB', (memory(self.match) - before) / count)
        for _ in range(self.runs * 3):
            self.note(f'list of {count} running: ms', timed(lambda: self.api.get('/containers/json')))
            self.note('inspect: ms', timed(lambda: self.api.get(f'/containers/{names[0]}/json')))
        try:
            for _ in range(self.runs):
                self.note('stats of one: ms', timed(lambda: self.api.get(f'/containers/{names[0]}/stats?stream=0&one-shot=1')))
        except Refused as refusal:
            print(f'  stats: not measured: {refusal}', file=sys.stderr)
        for _ in range(500):
            names.append(self.api.create(['true']))
        for _ in range(self.runs):
            self.note(f'list of {count + 500}, 500 of them stopped: ms', timed(lambda: self.api.get('/containers/json?all=1')))
        rounds = self.runs * 100
        inspect = lambda api: api.get(f'/containers/{names[0]}/json')
        self.note('inspects, 16 connections: per second', rounds / self.at_once(inspect, rounds, 16))
        begin = time.perf_counter()
        self.at_once(lambda api: api.remove(names.pop()), len(names), 4)
        self.note(f'{count + 500} containers removed: s', time.perf_counter() - begin)


class Berth:
    """An engine of its own, on directories of its own."""

    def __init__(self, program):
        self.program, self.root = program, tempfile.mkdtemp(prefix='berth-bench-')
        self.socket, self.name = f'{self.root}/api.sock', f'bench{os.getpid()}'
        self.process = None

    def start(self):
        """Milliseconds until it answers."""
        begin = time.perf_counter()
        log = open(f'{self.root}/log', 'a')
        self.process = subprocess.Popen(
            [self.program, '--data-root', f'{self.root}/data', '--exec-root', f'{self.root}/run', '--instance', self.name,
             '--host', f'unix://{self.socket}'], stdout=log, stderr=log)
        while self.process.poll() is None:
            try:
                Api(self.socket).get('/_ping')
                return (time.perf_counter() - begin) * 1000
            except OSError:
                time.sleep(0.001)
        sys.exit(f'{self.program} has ended; see {self.root}/log')

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait()

    def cold_starts(self, bench, known, runs):
        api = Api(self.socket)
        bench.at_once(lambda api: api.create(['true']), known - 100)
        bench.at_once(lambda api: api.run(['sleep', '3600']), 100)
        for _ in range(runs):
            self.stop(signal.SIGKILL)
            bench.note(f'start with {known} containers, 100 of them running: ms', self.start())
        names = [found['Id'] for found in api.get('/containers/json?all=1')]
        bench.at_once(lambda api: api.remove(names.pop()), len(names))

    def finish(self):
        self.stop()
        shutil.rmtree(self.root)


# What Berth is to reach: figure, limit, and whether less is better.
TARGETS = {
    'exec create, start attached, inspect: ms': (5, True),
    'list of 600, 500 of them stopped: ms': (3, True),
    'memory of each running container, MiB': (0.3, True),
    'start with 1000 containers, 100 of them running: ms': (300, True),
}
# What Berth is to reach in proportion to Docker.
RATIOS = {'log written, MB/s': 3, 'log read back, MB/s': 3, 'create, start, wait, remove: ms': 10}


def markdown(berth, docker):
    """The same as a table for a document."""
    print('| figure | Berth | Docker | times |\n|---|---|---|---|')
    for name, values in berth.items():
        less = not name.endswith(('MB/s', 'per second'))
        cells = [f'{statistics.median(v):.2f} ({min(v):.2f} - {max(v):.2f})' if v else '' for v in (values, docker.get(name))]
        times = ''
        if docker.get(name):
            ours, theirs = statistics.median(values), statistics.median(docker[name])
            times = f'{theirs / ours if less else ours / theirs:.1f}'
        print(f'| {name} | {cells[0]} | {cells[1]} | {times} |')
    print()


def show(berth, docker, seed):
    missed = 0
    print(f'seed {seed}; median (smallest - largest, number)\n')
    print(f'{"figure":54} {"target":>9} {"Berth":>34} {"Docker":>34} {"times":>6}')
    for name, values in berth.items():
        less = not name.endswith(('MB/s', 'per second'))
        value = statistics.median(values)
        word, ratio = '', ''
        if name in TARGETS:
            limit, less = TARGETS[name]
            word = f'{"<" if less else ">"} {limit}'
            missed += (value > limit) if less else (value < limit)
        if docker.get(name):
            other = statistics.median(docker[name])
            times = other / value if less else value / other
            ratio = f'{times:.1f}'
            if name in RATIOS:
                word += f' {RATIOS[name]}x'
                missed += times < RATIOS[name]
        cells = [f'{statistics.median(v):.2f} ({min(v):.2f} - {max(v):.2f}, {len(v)})' if v else '' for v in
                 (values, docker.get(name))]
        print(f'{name:54} {word.strip():>9} {cells[0]:>34} {cells[1]:>34} {ratio:>6}')
    print(f'\n{missed} targets missed')
    return missed


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument('berthd', help='the program')
    arguments.add_argument('--docker', metavar='SOCKET', help='the socket of a running Docker')
    arguments.add_argument('--docker-match', default='dockerd,containerd', metavar='WORDS',
                           help="what the command lines of its processes contain")
    arguments.add_argument('--quick', action='store_true', help='fewer repetitions')
    arguments.add_argument('--known', type=int, default=1000, help='containers at the cold start')
    arguments.add_argument('--live', type=int, default=100, help='running containers that are listed and weighed')
    arguments.add_argument('--markdown', action='store_true', help='print the figures as a table in Markdown, too')
    arguments.add_argument('--seed', default='1', help='of the content of files')
    given = arguments.parse_args()
    runs = 5 if given.quick else 20
    engine = Berth(given.berthd)
    engine.start()
    try:
        berth = Bench(engine.socket, [engine.name, 'berth-super', 'berth-spawner', 'sleep\0003600'], runs, given.seed, given.live)
        berth.all()
        engine.cold_starts(berth, given.known, max(3, runs // 4))
    finally:
        engine.finish()
    docker = {}
    if given.docker:
        bench = Bench(given.docker, given.docker_match.split(',') + ['sleep\0003600'], runs, given.seed, given.live)
        bench.all()
        docker = bench.figures
    if given.markdown:
        markdown(berth.figures, docker)
    return 1 if show(berth.figures, docker, given.seed) else 0


if __name__ == '__main__':
    sys.exit(main())
