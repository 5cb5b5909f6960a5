# Limits on a host whose controllers are all of cgroup v2. Runs inside the virtual machine of vm.sh:
#
#   tests/vm.sh tests/cgroup2.sh target/debug/berthd "$(command -v docker)"
#
# Prints a line for each thing that holds, stops with status 1 at the first that does not.
check() { # WHAT EXPECTED ACTUAL
  if [ "$2" = "$3" ]; then
    echo "ok: $1"
  else
    echo "FAILED: $1: expected '$2', got '$3'"
    cat /tmp/berth.log
    exit 1
  fi
}

mkdir -p /tmp/image/bin
cp /bin/busybox /tmp/image/bin/
for applet in sh cat tail mknod sleep stat touch mkdir test; do ln -s busybox "/tmp/image/bin/$applet"; done

mkdir /disk
mount -t ext4 /dev/vda /disk
echo bfq >/sys/block/vda/queue/scheduler

launch() { # FLAGS...
  berthd --data-root /disk/data --exec-root /tmp/exec --host unix:///tmp/berth.sock --instance vm "$@" >/tmp/berth.log 2>&1 &
  engine=$!
  tries=0
  until docker version >/dev/null 2>&1; do
    tries=$((tries + 1))
    kill -0 $engine && [ $tries -lt 60 ] || check "the engine starts" yes "$(cat /tmp/berth.log)"
    sleep 0.5
  done
}

export DOCKER_HOST=unix:///tmp/berth.sock
launch
tar -C /tmp/image -c . | docker import - busybox:latest >/dev/null
run="docker run --rm --network none"

check "the version is told" 2 "$(docker info --format '{{.CgroupVersion}}')"
check "a container has a namespace of its own" 0::/ "$($run busybox cat /proc/self/cgroup)"
check "memory" 33554432 "$($run --memory 32m busybox cat /sys/fs/cgroup/memory.max)"
check "swap is as much again" 33554432 "$($run --memory 32m busybox cat /sys/fs/cgroup/memory.swap.max)"
check "quota" "50000 100000" "$($run --cpus 0.5 busybox cat /sys/fs/cgroup/cpu.max)"
check "shares become a weight" 59 "$($run --cpu-shares 512 busybox cat /sys/fs/cgroup/cpu.weight 2>/dev/null)"
check "processors" 1 "$($run --cpuset-cpus 1 busybox cat /sys/fs/cgroup/cpuset.cpus)"
check "processes" 20 "$($run --pids-limit 20 busybox cat /sys/fs/cgroup/pids.max)"
check "bytes and operations of a disk" "rbps=1048576 wbps=max riops=max wiops=50" \
  "$($run --device-read-bps /dev/vda:1mb --device-write-iops /dev/vda:50 busybox cat /sys/fs/cgroup/io.max | cut -d' ' -f2-)"
check "weight of a disk" "default 300" "$($run --blkio-weight 300 busybox cat /sys/fs/cgroup/io.bfq.weight | head -n 1)"
check "the hierarchy is read-only" 1 "$($run busybox sh -c 'echo 0 > /sys/fs/cgroup/cgroup.freeze' 2>/dev/null; echo $?)"
check "a device can be made and not opened" "made refused" \
  "$($run busybox sh -c 'mknod /k c 1 1 && echo -n "made "; cat /k 2>/dev/null || echo refused')"
check "a device that is given can be opened" given \
  "$($run --cap-add SYSLOG --device /dev/kmsg busybox sh -c ': < /dev/kmsg && echo given')"
check "all processes at once by a fork bomb's limit" refused \
  "$($run --pids-limit 4 busybox sh -c 'sleep 9 & sleep 9 & sleep 9 & sleep 9 & echo all' 2>/dev/null || echo refused)"
check "the host's cgroup namespace" host \
  "$($run --cgroupns host busybox cat /proc/self/cgroup | grep -q ::/vm/ && echo host)"
docker run --name hungry --network none --memory 16m busybox tail /dev/zero >/dev/null 2>&1
check "too much memory is the end" "true 137" "$(docker inspect --format '{{.State.OOMKilled}} {{.State.ExitCode}}' hungry)"
# The end of this second: a duration is cut to whole seconds, which would leave out what has just happened.
check "and is told" oom "$(docker events --since 1h --until $(($(date +%s) + 1)) --filter event=oom --format '{{.Action}}' | head -n 1)"
docker run -d --name idle --network none busybox sh -c 'sleep 1000 & sleep 1000 & wait' >/dev/null
check "its processes are counted" 3 "$(docker stats --no-stream --format '{{.PIDs}}' idle)"
docker pause idle >/dev/null
check "pause freezes" 1 "$(cat /sys/fs/cgroup/vm/*/cgroup.freeze)"
docker unpause idle >/dev/null
check "unpause thaws" 0 "$(cat /sys/fs/cgroup/vm/*/cgroup.freeze)"
docker update --memory 64m --memory-swap 64m idle >/dev/null
check "and are shown" 64MiB "$(docker stats --no-stream --format '{{.MemUsage}}' idle | sed 's,.*/ ,,')"
check "limits change while a container runs" 67108864 "$(cat /sys/fs/cgroup/vm/*/memory.max)"
docker kill idle >/dev/null
check "a kill is the end of all its processes" 137 "$(docker wait idle)"
docker rm -f idle hungry >/dev/null
check "nothing is left" "" "$(find /sys/fs/cgroup/vm -mindepth 1 -type d)"

# Containers with ids of their own, on a kernel that takes layers by their paths only.
kill $engine
wait $engine
launch --userns-remap default
check "ids of their own" "0 100000 65536" "$($run busybox cat /proc/self/uid_map | tr -s ' ' | sed 's/^ //')"
check "files of the image" 0 "$($run busybox stat -c %u /bin/busybox)"
check "files that they make" "0 0" "$($run busybox sh -c 'touch /x /dev/shm/x && echo $(stat -c %u /x /dev/shm/x)')"
check "cgroups below their own" "100 made" \
  "$($run --pids-limit 100 busybox sh -c 'cat /sys/fs/cgroup/pids.max; mkdir /sys/fs/cgroup/below && echo 0 > /sys/fs/cgroup/below/cgroup.procs && echo made' | tr '\n' ' ' | sed 's/ $//')"
check "limits stay the engine's" refused \
  "$($run --memory 32m busybox sh -c '(echo max > /sys/fs/cgroup/memory.max) 2>/dev/null || echo refused')"
check "devices" "made refused" \
  "$($run --device /dev/kmsg busybox sh -c 'test -c /dev/kmsg && echo -n "made "; mknod /k c 1 1 2>/dev/null || echo refused')"
$run -v kept:/v busybox touch /v/x
check "volumes have the host's ids" 100000 "$(stat -c %u /disk/data/volumes/kept/_data/x)"
docker volume rm kept >/dev/null
check "the host's ids" "0 0 4294967295" "$($run --userns host busybox cat /proc/self/uid_map | tr -s ' ' | sed 's/^ //')"
check "nothing is left of them" "" "$(find /sys/fs/cgroup/vm -mindepth 1 -type d)"
echo "all checks passed"
