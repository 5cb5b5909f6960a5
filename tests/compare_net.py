#!/usr/bin/env python3
"""Gives two engines the same commands about networks, ports, links and volumes, and shows where they answer differently.

    tests/compare_net.py unix:///run/berth.sock unix:///run/docker.sock

Both need an image `busybox`. Ids, addresses, times and the like are replaced before the answers are compared. What the
commands make is removed again. Best run with each engine in a network namespace of its own. The exit code is the
number of differences, 100 at most.
"""

import json
import re
import subprocess
import sys

# Each case stands for itself; {} is not used by any command, so that formats can be written as they are.
CASES = [
    # networks
    ["network create cn-a", "network ls --filter name=cn-a --format {{.Name}}:{{.Driver}}:{{.Scope}}", "network create cn-a",
     "network inspect cn-a", "network rm cn-a", "network rm cn-a", "network inspect cn-a"],
    ["network create --subnet 198.19.1.0/24 --gateway 198.19.1.9 --ip-range 198.19.1.128/25 --aux-address x=198.19.1.130 "
     "--label l=v --opt com.docker.network.driver.mtu=1400 cn-a",
     "network inspect cn-a", "network create --subnet 198.19.1.128/25 cn-b", "network create --subnet 198.19.0.0/16 cn-b",
     "run --rm --network cn-a busybox ip -4 -o addr show dev eth0", "run --rm --network cn-a --ip 198.19.1.77 busybox ip -4 -o addr show dev eth0",
     "run -d --name cc-1 --network cn-a --ip 198.19.1.78 busybox sleep 100",
     "run --rm --network cn-a --ip 198.19.1.78 busybox true", "run --rm --network cn-a --ip 10.9.9.9 busybox true",
     "run --rm --network cn-a --ip 198.19.1.9 busybox true",
     "network rm cn-a", "network inspect cn-a", "rm -f cc-1", "network rm cn-a"],
    ["network create --subnet x cn-a", "network create --subnet 198.19.1.0/24 --gateway 10.0.0.1 cn-a",
     "network create --subnet 198.19.1.0/24 --ip-range 198.18.0.0/24 cn-a", "network create --driver weave cn-a",
     "network create --driver host cn-a", "network create --driver overlay cn-a", "network create --opt com.docker.network.driver.mtu=much cn-a",
     "network create --opt com.docker.network.bridge.enable_icc=perhaps cn-a", "network create --opt com.docker.network.bridge.host_binding_ipv4=x cn-a",
     "network create --ipam-driver odd cn-a",
     "network create host", "network create bridge", "network create --subnet 198.19.1.0/24 --subnet 198.19.1.128/25 cn-a",
     "network create --subnet 198.19.1.0/24 --aux-address x=10.1.1.1 cn-a",
     "network rm bridge", "network rm host", "network rm nothere"],
    ["network create --internal --attachable cn-a", "network inspect cn-a --format {{.Internal}}{{.Attachable}}{{.EnableIPv6}}",
     "run --rm --network cn-a busybox ip route", "run --rm --network cn-a busybox cat /etc/resolv.conf", "network rm cn-a"],
    ["network create --ipv6 --subnet fd00:19::/64 cn-a", "network inspect cn-a", "run --rm --network cn-a busybox ip -6 -o addr show dev eth0",
     "run --rm --network cn-a --ip6 fd00:19::77 busybox ip -6 -o addr show dev eth0", "network rm cn-a"],
    ["network create --subnet fd00:19::/64 cn-a", "network inspect cn-a", "network rm cn-a"],
    ["network create cn-a", "network create cn-b", "run -d --name cc-1 --hostname h1 --network cn-a --network-alias web busybox sleep 100",
     "network connect --alias db --ip 198.19.1.1 cn-b cc-1", "network connect --alias db cn-b cc-1", "network connect cn-b cc-1",
     "inspect cc-1 --format {{json.NetworkSettings.Networks}}".replace("json.", "json ."),
     "network inspect cn-b", "exec cc-1 cat /etc/hosts", "exec cc-1 cat /etc/resolv.conf", "exec cc-1 ip -o -4 addr",
     "run --rm --network cn-b busybox nslookup -type=a db", "run --rm --network cn-b busybox ping -c1 -W2 cc-1",
     "network disconnect cn-a cc-1", "exec cc-1 cat /etc/hosts", "network disconnect cn-a cc-1", "network disconnect bridge cc-1",
     "network disconnect nothere cc-1", "network disconnect cn-b nothere", "network connect nothere cc-1", "network connect cn-b nothere",
     "network connect host cc-1", "network connect none cc-1", "network disconnect -f cn-b nothere",
     "restart -t 0 cc-1", "exec cc-1 ip -o -4 addr", "stop -t 0 cc-1", "network connect cn-a cc-1", "network rm cn-a", "start cc-1",
     "rm -f cc-1", "network rm cn-a cn-b"],
    ["network create --label keep cn-a", "network create cn-b", "network ls --filter label=keep --format {{.Name}}",
     "network ls --filter driver=bridge --filter name=cn- --format {{.Name}}", "network ls --filter type=custom --filter name=cn- --format {{.Name}}",
     "network ls --filter type=builtin --format {{.Name}}", "network ls --filter type=odd", "network ls --filter odd=x", "network ls --filter scope=swarm",
     "network ls --filter dangling=true --filter name=cn- --format {{.Name}}", "network ls --filter dangling=perhaps",
     "network prune -f --filter label!=keep", "network prune -f --filter odd=x", "network prune -f --filter until=xyz", "network prune -f"],
    ["run -d --name cc-1 --network host busybox sleep 100", "network connect bridge cc-1", "network disconnect host cc-1",
     "run -d --name cc-2 --network none busybox sleep 100", "network connect bridge cc-2",
     "run -d --name cc-3 --network container:cc-2 busybox sleep 100", "network connect bridge cc-3",
     "inspect cc-1 cc-2 cc-3 --format {{json.NetworkSettings.Networks}}".replace("json.", "json ."),
     "run --rm --network container:cc-2 -p 80 busybox true", "run --rm --network container:cc-2 --hostname x busybox true",
     "run --rm --network container:cc-2 --dns 1.1.1.1 busybox true", "run --rm --network container:nothere busybox true",
     "run --rm --network host -p 80 busybox true",
     "run --rm --network nothere busybox true", "run --rm --network bridge --ip 172.17.0.9 busybox true", "run --rm --network-alias x busybox true",
     "rm -f cc-1 cc-2 cc-3 cc-4"],
    # ports
    ["run -d --name cc-1 -p 127.0.0.1:47101:80 -p 47102-47103:81-82/udp --expose 9 busybox sleep 100", "port cc-1", "port cc-1 80", "port cc-1 7",
     "inspect cc-1 --format {{json.NetworkSettings.Ports}}".replace("json.", "json ."), "inspect cc-1 --format {{json.HostConfig.PortBindings}}".replace("json.", "json ."),
     "ps --filter name=cc-1 --format {{.Ports}}", "ps --filter publish=47101 --format {{.Names}}", "ps --filter expose=9 --format {{.Names}}",
     "run -d --name cc-2 -p 47101:80 busybox sleep 100", "inspect cc-2 --format {{.State.Status}}:{{.State.ExitCode}}", "rm -f cc-2",
     "run -d --name cc-2 -p 192.0.2.1:47109:80 busybox sleep 100", "rm -f cc-2", "run -d --name cc-2 -p 47101:80/udp busybox sleep 100", "rm -f cc-2",
     "stop -t 0 cc-1", "inspect cc-1 --format {{json.NetworkSettings.Ports}}".replace("json.", "json ."), "rm -f cc-1",
     "run --rm -p 70000:80 busybox true", "run --rm -p x:80 busybox true", "run --rm -p 1.2.3:80:80 busybox true"],
    # links
    ["run -d --name cc-1 --expose 80 --expose 53/udp -e SECRET=x busybox sleep 100", "run --rm --name cc-2 --link cc-1:my-db busybox env",
     "run --rm --name cc-2 --link cc-1:my-db busybox cat /etc/hosts", "run -d --name cc-2 --link cc-1:my-db busybox sleep 100",
     "inspect cc-2 --format {{json.HostConfig.Links}}".replace("json.", "json ."), "ps --no-trunc --filter name=cc-1 --format {{.Names}}",
     "inspect cc-2/my-db --format {{.Name}}", "exec cc-2 env", "rm --link cc-2/my-db", "rm --link cc-2/my-db", "rm --link cc-2",
     "run --rm --link nothere:x busybox true", "stop -t 0 cc-1", "run --rm --name cc-3 --link cc-1:x busybox true",
     "run --rm --network host --link cc-1:x busybox true", "rm -f cc-1 cc-2 cc-3"],
    # names in files
    ["run --rm --add-host a:10.0.0.1 --hostname h --domainname d.test busybox cat /etc/hosts", "run --rm --dns 9.9.9.9 --dns-search s.test --dns-opt ndots:3 busybox cat /etc/resolv.conf",
     "run --rm --hostname h.d.test busybox cat /etc/hosts /etc/hostname", "run --rm --network none busybox cat /etc/hosts",
     "run --rm --dns x busybox true", "run --rm --add-host x busybox true", "run --rm --mac-address 02:42:ac:11:00:77 busybox cat /sys/class/net/eth0/address",
     "run --rm --mac-address x busybox true"],
    # volumes
    ["volume create cv-a", "volume create cv-a", "volume inspect cv-a", "volume ls --filter name=cv-a", "volume create --driver odd cv-b", "volume create /x", "volume create x",
     "volume create --opt odd=1 cv-b", "volume create --opt size=1x cv-b", "volume rm cv-a", "volume rm cv-a", "volume rm -f cv-a", "volume inspect cv-a"],
    ["run --name cc-1 -v cv-a:/d busybox sh -c 'echo x > /d/f'", "volume rm cv-a", "volume rm -f cv-a", "run --rm --volumes-from cc-1:ro busybox sh -c 'cat /d/f; echo > /d/f'",
     "inspect cc-1 --format {{json.Mounts}}".replace("json.", "json ."), "volume ls --filter dangling=false --filter name=cv- --format {{.Name}}",
     "volume ls --filter dangling=perhaps", "volume ls --filter odd=x", "ps -a --filter volume=cv-a --format {{.Names}}", "rm cc-1", "volume rm cv-a"],
    ["run --rm -v cv-a:/d:odd busybox true", "run --rm -v cv-a:d busybox true", "run --rm -v cv-a:/ busybox true", "run --rm -v /tmp:/d -v /tmp:/d busybox true",
     "run --rm --volumes-from nothere busybox true", "run --rm --mount type=bind,source=/nothere,target=/d busybox true", "run --rm --mount type=odd,target=/d busybox true",
     "run --rm --mount type=volume,target=/d,volume-nocopy busybox ls /d", "run --rm --mount type=tmpfs,target=/d,tmpfs-size=64k,tmpfs-mode=700 busybox sh -c 'df -k /d | tail -1; ls -ld /d'",
     "run --rm --mount type=bind,source=/tmp,target=/d,bind-propagation=odd busybox true", "run --rm --mount type=bind,source=/tmp,target=/d,readonly busybox touch /d/x",
     "run --rm --mount type=bind,source=/tmp,target=/d,bind-nonrecursive,consistency=cached busybox true",
     "volume create --opt type=tmpfs --opt device=tmpfs --opt o=size=64k cv-b", "run --rm -v cv-b:/d busybox sh -c 'df -k /d | tail -1'", "volume rm cv-b",
     "volume create --opt type=none --opt o=bind --opt device=/nothere cv-b", "run --rm -v cv-b:/d busybox true", "volume rm -f cv-b cv-a"],
    ["volume create --label keep cv-a", "volume create cv-b", "run --rm -v /d busybox true", "volume ls --filter label=keep --format {{.Name}}", "volume ls --filter driver=local --filter name=cv- --format {{.Name}}",
     "volume prune -f --filter label!=keep --filter all=1", "volume prune -f --filter odd=1", "volume rm -f cv-a cv-b"],
]

REPLACED = [
    (r"\b[0-9a-f]{64}\b", "ID"),
    (r"\b[0-9a-f]{12}\b", "ID12"),
    (r"\b(02|[0-9a-f]{2})(:[0-9a-f]{2}){5}\b", "MAC"),
    (r"\b(172\.\d+|10\.\d+|192\.168)\.\d+\.\d+(/\d+)?", "ADDRESS"),
    (r"\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)", "TIME"),
    (r"eth\d@if\d+", "eth0@ifN"),
    (r"time=\S+ ms|= [0-9./]+ ms", "TIMES"),
    (r"fe80::[0-9a-f:]+", "LINK-LOCAL"),
    (r"^\d+: ", "N: "),
    (r"/[^ \"']*/volumes/", "ROOT/volumes/"),
    (r"br-[0-9a-f]{12}", "BRIDGE"),
    (r"docker0|berth0", "BRIDGE"),
    (r"# .*\n", ""),
]


def run(host, command):
    """The answer of one engine to a command, made comparable."""
    words = ["sh", "-c", "exec docker " + command.replace("{{", "'{{").replace("}}", "}}'").replace("}}''{{", "}}{{").replace("}}':'{{", "}}:{{")]
    done = subprocess.run(words, env={"DOCKER_HOST": host, "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent"},
                          capture_output=True, text=True, timeout=60)
    out = done.stdout
    try:
        out = json.dumps(json.loads(out), indent=1, sort_keys=True) + "\n"
    except ValueError:
        pass
    text = f"exit {done.returncode}\n{out}{done.stderr}"
    for pattern, replacement in REPLACED:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


def clean(host):
    """Removes what a case may have left."""
    for listing, removal in (("ps -aq --filter name=cc-", "rm -f -v"), ("network ls -q --filter name=cn-", "network rm"),
                             ("volume ls -q --filter name=cv-", "volume rm -f")):
        subprocess.run(["sh", "-c", f"docker {listing} | xargs -r docker {removal}"], env={"DOCKER_HOST": host, "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"},
                       capture_output=True, check=False)


def main():
    """Compares."""
    ours, theirs = sys.argv[1:3]
    only = sys.argv[3] if len(sys.argv) > 3 else ""
    differences = commands = 0
    for case in CASES:
        if only and not any(only in command for command in case):
            continue
        for command in case:
            commands += 1
            own, other = run(ours, command), run(theirs, command)
            if own != other:
                differences += 1
                print(f"=== docker {command}\n--- first\n{own.strip()}\n--- second\n{other.strip()}\n")
        clean(ours)
        clean(theirs)
    print(f"{commands} commands, {differences} different answers")
    sys.exit(min(differences, 100))


if __name__ == "__main__":
    main()
