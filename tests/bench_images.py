#!/usr/bin/env python3
"""Images in and out, with Berth and, if it is given, dockerd: pull, load, save and push of a large image.

    tests/bench_images.py target/release/berthd
    tests/bench_images.py target/release/berthd --dockerd /usr/sbin/dockerd --repeat 3

The image is made of this machine's own /usr, in layers of equal size. A docker-registry on loopback has it compressed
with gzip. Each engine runs by itself with its data below --work, and is driven by the docker command line. Prints
medians, bytes of files per second, and the largest memory (PSS) of all processes of the engine meanwhile.

Needs root, the docker command line, docker-registry and skopeo. Figures are only comparable within one run on a quiet
machine.
"""
import argparse, hashlib, json, os, pathlib, shutil, signal, socket, stat, statistics, subprocess, sys, tarfile
import tempfile, threading, time


def layers_of_usr(work, count, size):
    """Writes `count` layers of at least `size` bytes of files each; gives their paths."""
    files = []
    for root, dirs, names in os.walk('/usr'):
        dirs.sort()
        for name in sorted(names):
            path = os.path.join(root, name)
            info = os.lstat(path)
            if stat.S_ISREG(info.st_mode) and info.st_size < size:
                files.append((path, info.st_size))
    # Spread over the layers, so that each is like the whole.
    paths = []
    at = iter(range(len(files)))
    stride = 7919 if len(files) % 7919 else 7907
    for number in range(count):
        path, had = work / f'layer{number}.tar', 0
        with tarfile.open(path, 'w', format=tarfile.PAX_FORMAT) as tar:
            while had < size:
                index = next(at, None)
                if index is None:
                    sys.exit(f'/usr has too little: ask for less with --mib')
                name, length = files[index * stride % len(files)]
                tar.add(name, recursive=False)
                had += length
        paths.append(path)
    return paths


def digest(path):
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest() if hasattr(hashlib, 'file_digest') else \
            hashlib.sha256(file.read()).hexdigest()


def archive(work, layers, tag):
    """The layers as `docker save` writes them."""
    config = {'architecture': {'x86_64': 'amd64', 'aarch64': 'arm64'}[os.uname().machine], 'os': 'linux',
              'config': {'Cmd': ['/usr/bin/true']},
              'rootfs': {'type': 'layers', 'diff_ids': [f'sha256:{digest(path)}' for path in layers]},
              'history': [{'created': '2024-01-01T00:00:00Z', 'created_by': 'a layer'} for _ in layers],
              'created': '2024-01-01T00:00:00Z'}
    path = work / 'image.tar'
    with tarfile.open(path, 'w') as tar:
        def document(name, value):
            file = work / 'document'
            file.write_text(json.dumps(value))
            tar.add(file, name)
        document('config.json', config)
        for number, layer in enumerate(layers):
            tar.add(layer, f'{number}/layer.tar')
        document('manifest.json', [{'Config': 'config.json', 'RepoTags': [tag],
                                    'Layers': [f'{number}/layer.tar' for number in range(len(layers))]}])
    return path


def free_port():
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return sock.getsockname()[1]


def registry(work):
    """Starts a docker-registry; gives it and its address."""
    address = f'127.0.0.1:{free_port()}'
    config = work / 'registry.yml'
    config.write_text(f'version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n'
                      f'storage: {{filesystem: {{rootdirectory: {work}/registry}}, delete: {{enabled: true}}}}\n'
                      f'http: {{addr: "{address}"}}\n')
    process = subprocess.Popen(['docker-registry', 'serve', str(config)], stdout=subprocess.DEVNULL,
                               stderr=open(work / 'registry.log', 'w'))
    until(lambda: socket.create_connection(('127.0.0.1', int(address.split(':')[1])), 1).close())
    return process, address


def until(works, patience=60):
    end = time.monotonic() + patience
    while True:
        try:
            return works()
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def descendants(pid):
    """A process and all below it."""
    children = {}
    for entry in os.listdir('/proc'):
        if entry.isdigit():
            try:
                parent = int(pathlib.Path('/proc', entry, 'stat').read_text().rsplit(')', 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry))
    found, left = [], [pid]
    while left:
        found.append(left.pop())
        left += children.get(found[-1], [])
    return found


class Memory:
    """The largest sum of the PSS of an engine's processes, while it is entered."""

    def __init__(self, pid):
        self.pid, self.peak, self.over = pid, 0, threading.Event()

    def now(self):
        total = 0
        for pid in descendants(self.pid):
            try:
                for line in open(f'/proc/{pid}/smaps_rollup'):
                    if line.startswith('Pss:'):
                        total += int(line.split()[1]) << 10
            except OSError:
                pass
        return total

    def __enter__(self):
        def watch():
            while not self.over.wait(0.1):
                self.peak = max(self.peak, self.now())
        self.thread = threading.Thread(target=watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()
        self.peak = max(self.peak, self.now())


class Engine:
    def __init__(self, name, words, work):
        self.name, self.work = name, pathlib.Path(tempfile.mkdtemp(prefix=f'{name}-', dir=work))
        self.socket = self.work / 'api.sock'
        words = [word.format(work=self.work, socket=self.socket) for word in words]
        environment = dict(os.environ)
        # dockerd looks for containerd beside itself.
        environment['PATH'] = f'{os.path.dirname(words[0])}:{os.path.dirname(words[0])}/../bin:{environment["PATH"]}'
        self.process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL,
                                        stderr=open(self.work / 'log', 'w'))
        until(lambda: self.docker('version'))

    def docker(self, *words, **more):
        done = subprocess.run(['docker', '-H', f'unix://{self.socket}', *words], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, **more)
        if done.returncode:
            raise RuntimeError(f'docker {" ".join(words)}: {done.stderr.decode()[-500:]}')
        return done.stdout

    def timed(self, figures, what, work):
        os.sync()
        with Memory(self.process.pid) as memory:
            begin = time.monotonic()
            work()
            seconds = time.monotonic() - begin
        figures.setdefault(what, []).append((seconds, memory.peak))

    def forget(self, name):
        self.docker('rmi', '-f', name)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        shutil.rmtree(self.work, ignore_errors=True)


def measure(engine, archive, there, target, repeat):
    figures = {}

    def save():
        done = subprocess.run(['docker', '-H', f'unix://{engine.socket}', 'save', there], stdout=open('/dev/null', 'w'))
        if done.returncode:
            sys.exit('docker save failed')

    for number in range(repeat):
        engine.timed(figures, 'pull and unpack', lambda: engine.docker('pull', '-q', there))
        engine.timed(figures, 'pull, all there', lambda: engine.docker('pull', '-q', there))
        engine.timed(figures, 'save', save)
        fresh = f'{target}{number}:v1'
        engine.docker('tag', there, fresh)
        engine.timed(figures, 'push of what was pulled', lambda: engine.docker('push', '-q', fresh))
        engine.timed(figures, 'push, all there', lambda: engine.docker('push', '-q', fresh))
        engine.forget(fresh)
        engine.timed(figures, 'remove', lambda: engine.forget(there))
        engine.timed(figures, 'load', lambda: engine.docker('load', '-q', '-i', str(archive)))
        made = f'{target}-loaded{number}:v1'
        engine.docker('tag', there, made)
        engine.timed(figures, 'push of what was loaded', lambda: engine.docker('push', '-q', made))
        engine.forget(made)
        engine.forget(there)
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('berthd')
    parser.add_argument('--dockerd')
    parser.add_argument('--mib', type=int, default=1024)
    parser.add_argument('--layers', type=int, default=10)
    parser.add_argument('--repeat', type=int, default=3)
    parser.add_argument('--work', help='a directory on a disk with room for ten times the image')
    asked = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp(prefix='berth-bench-', dir=asked.work))
    process, engines, results = None, [], {}
    try:
        process, address = registry(work)
        there = f'{address}/bench:v1'
        layers = layers_of_usr(work, asked.layers, (asked.mib << 20) // asked.layers)
        plain = sum(path.stat().st_size for path in layers)
        image = archive(work, layers, there)
        for path in layers:
            path.unlink()
        subprocess.run(['skopeo', 'copy', '-q', '--insecure-policy', '--dest-tls-verify=false',
                        f'docker-archive:{image}', f'docker://{there}'], check=True)
        print(f'{asked.layers} layers, {plain >> 20} MiB, {os.cpu_count()} cores')
        kinds = {'berth': [asked.berthd, '--data-root', '{work}/data', '--exec-root', '{work}/run', '--instance',
                           f'bench{os.getpid()}', '-H', 'unix://{socket}', '--log-level', 'error']}
        if asked.dockerd:
            kinds['dockerd'] = [asked.dockerd, '--data-root', '{work}/data', '--exec-root', '{work}/run', '-p',
                                '{work}/pid', '-H', 'unix://{socket}', '--iptables=false', '--bridge=none']
        for name, words in kinds.items():
            engine = Engine(name, words, work)
            engines.append(engine)
            results[name] = measure(engine, image, there, f'{address}/{name}', asked.repeat)
            engines.pop().stop()
    finally:
        for engine in engines:
            engine.stop()
        if process:
            process.terminate()
            process.wait()
        shutil.rmtree(work, ignore_errors=True)
    first = results['berth']
    for what in first:
        texts = []
        for name, figures in results.items():
            seconds = statistics.median(s for s, _ in figures[what])
            peak = max(p for _, p in figures[what])
            texts.append(f'{name} {seconds:7.2f} s {plain / 1e6 / seconds:7.0f} MB/s {peak / (1 << 20):5.0f} MiB')
        if len(results) > 1:
            ratio = [statistics.median(s for s, _ in results[name][what]) for name in ('dockerd', 'berth')]
            texts.append(f'{ratio[0] / ratio[1]:.1f} times')
        print(f'{what:24} ' + ' | '.join(texts))


if __name__ == '__main__':
    main()
