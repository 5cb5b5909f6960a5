#!/usr/bin/env python3
"""What two engines answer about images: the same commands, and where the answers differ.

    tests/compare_images.py unix:///run/berth.sock unix:///var/run/docker.sock [REGISTRY REGISTRY]

The docker command line is used. REGISTRY is the address of an empty registry for each engine, 127.0.0.1:5000 for
instance; without them nothing is pulled and pushed. Images called cmp-* are made and removed. IDs, digests, times and
sizes are not compared, for they are each engine's own.
"""
import io, json, os, re, subprocess, sys, tarfile

HEX = re.compile(r'\b(sha256:)?[0-9a-f]{64}\b')
SHORT = re.compile(r'\b[0-9a-f]{12}\b')


def layer(text):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w') as tar:
        entry = tarfile.TarInfo('file')
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


class Side:
    def __init__(self, host, registry):
        self.host, self.registry = host, registry

    def docker(self, *words, give=None):
        words = [word.replace('REGISTRY', self.registry) for word in words]
        done = subprocess.run(['docker', '-H', self.host, *words], input=give, capture_output=True, check=False)
        return done.returncode, done.stdout.decode(errors='replace'), done.stderr.decode(errors='replace')

    def api(self, method, path, give=None, headers=()):
        words = ['curl', '-g', '-s', '-o', '-', '-w', '\n%{http_code}', '--unix-socket', self.host.removeprefix('unix://'),
                 '-X', method]
        for header in headers:
            words += ['-H', header]
        if give is not None:
            words += ['--data-binary', '@-', '-H', 'Content-Type: application/x-tar']
        done = subprocess.run([*words, 'http://d/v1.41' + path], input=give, capture_output=True, check=False)
        body, _, status = done.stdout.decode(errors='replace').rpartition('\n')
        return int(status), body, ''


def plain(text):
    text = SHORT.sub('<short>', HEX.sub('<digest>', text))
    text = re.sub(r'\d+(\.\d+)? ?(k|M|G)?B\b', '<size>', text)
    text = re.sub(r'(About|Less than|\d+) [a-z ]*(second|minute|hour|day|week|month|year)s?( ago)?', '<age>', text)
    text = re.sub(r'"(Created|Size|VirtualSize|SharedSize|size|created)":-?\d+', r'"\1":0', text)
    return re.sub(r'\s+$', '', text, flags=re.M)


def cases(registry):
    one = {'docker': ('import', '-', 'cmp-a:1'), 'give': layer('one')}
    yield one
    yield {'docker': ('import', '-c', 'CMD ["x"]', '-c', 'ENV A=b', '-c', 'LABEL k=v', '-m', 'said', '-', 'cmp-b:1'),
           'give': layer('two')}
    for words in [
        ('tag', 'cmp-a:1', 'cmp-a:2'), ('tag', 'cmp-a:1', 'localhost:5001/x/cmp-c'), ('tag', 'cmp-none', 'x'),
        ('tag', 'cmp-a:1', 'UPPER'), ('tag', 'cmp-a:1', 'x:bad tag'), ('tag', 'cmp-a:1', 'a//b'),
        ('tag', 'cmp-a:1', 'sha256'), ('tag', 'cmp-a:1', 'x@sha256:' + '1' * 64), ('tag', 'cmp-a:1', '1' * 64),
        ('tag', '', 'x'), ('image', 'ls', 'cmp-a'), ('image', 'ls', 'cmp-a:1'), ('image', 'ls', '--digests', 'cmp-a'),
        ('image', 'ls', '--filter', 'reference=cmp-*:1', '--format', '{{.Repository}}:{{.Tag}}'),
        ('image', 'ls', '--filter', 'reference=*/*/cmp-c', '--format', '{{.Repository}}:{{.Tag}}'),
        ('image', 'ls', '--filter', 'reference=localhost:5001/x/*', '--format', '{{.Repository}}:{{.Tag}}'),
        ('image', 'ls', '--filter', 'label=k=v', '--format', '{{.Repository}}'),
        ('image', 'ls', '--filter', 'label=none', '--format', '{{.Repository}}'),
        ('image', 'ls', '--filter', 'before=cmp-b:1', '--filter', 'reference=cmp-*', '--format', '{{.Repository}}:{{.Tag}}'),
        ('image', 'ls', '--filter', 'since=cmp-a:1', '--filter', 'reference=cmp-*', '--format', '{{.Repository}}:{{.Tag}}'),
        ('image', 'ls', '--filter', 'before=none'), ('image', 'ls', '--filter', 'dangling=maybe'),
        ('image', 'ls', '--filter', 'nothing=x'), ('image', 'ls', '--filter', 'since='),
        ('image', 'inspect', 'cmp-none'), ('image', 'inspect', 'cmp-a:none'), ('image', 'inspect', 'BAD'),
        ('image', 'inspect', '-f', '{{json .RepoTags}} {{json .RepoDigests}} {{json .Config.Cmd}} {{json .Config.Env}} '
         '{{json .Config.Labels}} {{.Comment}} {{.Os}} {{.Architecture}} {{.RootFS.Type}} {{len .RootFS.Layers}} '
         '{{json .Config.Volumes}} {{.Parent}} {{.Author}}', 'cmp-b:1'),
        ('image', 'history', '--no-trunc', '--format', '{{.ID}}|{{.CreatedBy}}|{{.Comment}}', 'cmp-b:1'),
        ('image', 'history', 'cmp-none'),
        ('rmi', 'cmp-none'), ('rmi', 'cmp-a:2'), ('rmi', 'BAD'), ('rmi', 'f' * 64), ('rmi', 'a//b'),
        ('save', 'cmp-none'), ('save', 'cmp-a:1', 'cmp-none'),
        ('pull', 'scratch'), ('pull', 'UPPER'), ('pull', 'x:' + 'y' * 129), ('pull', '-a', 'x:1'),
        ('push', 'cmp-none'), ('push', 'cmp-a@sha256:' + '1' * 64), ('push', '127.0.0.1:1/cmp-none:x'),
        ('pull', '127.0.0.1:1/x'), ('pull', 'x@sha256:12'), ('create', '--pull=never', 'cmp-none'),
        ('create', '--name', 'cmp-user', 'cmp-a:1', '/x'), ('rmi', 'cmp-a:1'), ('rmi', '-f', 'cmp-a:1'),
        ('tag', 'localhost:5001/x/cmp-c', 'cmp-a:1'), ('rmi', 'localhost:5001/x/cmp-c'), ('rmi', 'cmp-a:1'),
        ('rm', 'cmp-user'), ('rmi', 'cmp-a:1'), ('rmi', 'cmp-b:1'),
    ]:
        yield {'docker': words}
    for method, path in [
        ('GET', '/images/json?filters=x'), ('GET', '/images/json?filters={"label":["a"],"x":["y"]}'),
        ('GET', '/images//json'), ('GET', '/images/get'), ('GET', '/images/none/get'), ('POST', '/images/create'),
        ('POST', '/images/create?fromImage=scratch'), ('POST', '/images/create?fromImage=x&tag=bad%20tag'),
        ('POST', '/images/create?fromImage=x&tag=1&platform=a/b/c/d'), ('POST', '/images/none/tag?repo=x'),
        ('POST', '/images/none/push'), ('DELETE', '/images/none'), ('GET', '/images/none/history'),
        ('POST', '/images/prune?filters={"dangling":["x"]}'), ('POST', '/images/prune?filters={"until":["x"]}'),
        ('POST', '/images/prune?filters={"none":["x"]}'), ('GET', '/images/search?term='),
        ('GET', '/images/search?term=x&limit=200'), ('POST', '/images/create?fromSrc=-&repo=cmp-x&changes=RUN%20x'),
        ('POST', '/images/create?fromSrc=-&repo=BAD'), ('POST', '/auth'),
    ]:
        yield {'api': (method, path)}
    yield {'api': ('POST', '/images/load'), 'give': b'no archive'}
    yield {'api': ('POST', '/images/load'), 'give': layer('no image')}
    if not registry:
        return
    yield {'docker': ('import', '-', f'{registry}/cmp/a:1'), 'give': layer('three')}
    for words in [
        ('push', f'{registry}/cmp/a:1'), ('push', f'{registry}/cmp/a:1'), ('tag', f'{registry}/cmp/a:1', f'{registry}/cmp/b:1'),
        ('push', f'{registry}/cmp/b:1'), ('tag', f'{registry}/cmp/a:1', f'{registry}/cmp/a:2'), ('push', '-a', f'{registry}/cmp/a'),
        ('push', '-q', f'{registry}/cmp/a:1'),
        ('image', 'inspect', '-f', '{{json .RepoTags}} {{len .RepoDigests}}', f'{registry}/cmp/a:1'),
        ('rmi', f'{registry}/cmp/b:1'), ('rmi', f'{registry}/cmp/a:2'), ('rmi', f'{registry}/cmp/a:1'),
        ('pull', f'{registry}/cmp/a:1'), ('pull', f'{registry}/cmp/a:1'), ('pull', '-q', f'{registry}/cmp/a:1'),
        ('pull', '-a', f'{registry}/cmp/a'), ('pull', f'{registry}/cmp/a:none'), ('pull', f'{registry}/cmp/none'),
        ('pull', '--platform', 'linux/arm64', f'{registry}/cmp/a:1'), ('pull', '--platform', 'linux', f'{registry}/cmp/a:1'),
        ('pull', '--platform', 'plan9/mips', f'{registry}/cmp/a:1'), ('pull', f'{registry}/cmp/a@sha256:' + '1' * 64),
        ('image', 'ls', '--digests', '--format', '{{.Repository}} {{.Tag}} {{.Digest}}', f'{registry}/cmp/a'),
        ('search', f'{registry}/x'),
        ('rmi', f'{registry}/cmp/a:2'), ('rmi', f'{registry}/cmp/a:1'),
    ]:
        yield {'docker': words}


def main():
    registries = sys.argv[3:5] if len(sys.argv) > 4 else ['', '']
    sides = [Side(*pair) for pair in zip(sys.argv[1:3], registries)]
    registry = registries[0] and 'REGISTRY'
    differ = count = 0
    for case in cases(registry):
        count += 1
        give = case.get('give')
        if 'docker' in case:
            shown = 'docker ' + ' '.join(case['docker'])
            answers = [side.docker(*case['docker'], give=give) for side in sides]
        else:
            shown = ' '.join(case['api'])
            answers = [side.api(*case['api'], give=give) for side in sides]
        for at, (side, (code, out, error)) in enumerate(zip(sides, answers)):
            texts = [text.replace(side.registry, 'REGISTRY') if registry else text for text in (out, error)]
            answers[at] = code, *map(plain, texts)
        if answers[0] != answers[1]:
            differ += 1
            print(f'--- {shown}')
            for side, (code, out, error) in zip(sides, answers):
                print(f'  {side.host}: {code}')
                for line in (out + '\n' + error).splitlines():
                    if line:
                        print(f'    {line}')
    print(f'{differ} of {count} differ')


if __name__ == '__main__':
    main()
