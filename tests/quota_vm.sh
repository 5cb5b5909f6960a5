# Sizes of volumes on a file system that keeps them. Runs inside the virtual machine of vm.sh:
#
#   VM_MODULES="loop quota_tree quota_v2" \
#       tests/vm.sh tests/quota_vm.sh target/debug/berthd "$(command -v docker)" "$(command -v mke2fs)"
#
# Prints a line for each thing that holds, stops with status 1 at the first that does not.
check() { # WHAT EXPECTED ACTUAL
  if [ "$2" = "$3" ]; then
    echo "ok: $1"
  else
    echo "FAILED: $1: expected '$2', got '$3'"
    tail -n 20 /tmp/berth.log
    exit 1
  fi
}

mkdir -p /tmp/image/bin /tmp/disk /etc
cp /bin/busybox /tmp/image/bin/
for applet in sh cat dd wc; do ln -s busybox "/tmp/image/bin/$applet"; done
dd if=/dev/zero of=/tmp/disk.img bs=1M count=64 2>/dev/null
: >/etc/mke2fs.conf
/bin/mke2fs -q -F -t ext4 -O extents,has_journal,project,quota /tmp/disk.img
mount -t ext4 -o loop,prjquota /tmp/disk.img /tmp/disk
check "the file system is there" ext4 "$(awk '$2 == "/tmp/disk" {print $3}' /proc/mounts)"

berthd --data-root /tmp/disk/data --exec-root /tmp/exec --host unix:///tmp/berth.sock --instance vm >/tmp/berth.log 2>&1 &
engine=$!
export DOCKER_HOST=unix:///tmp/berth.sock
tries=0
until docker version >/dev/null 2>&1; do
  tries=$((tries + 1))
  kill -0 $engine && [ $tries -lt 60 ] || check "the engine starts" yes "$(cat /tmp/berth.log)"
  sleep 0.5
done
tar -C /tmp/image -c . | docker import - busybox:latest >/dev/null

write() { # VOLUME MEBIBYTES: what was written, in bytes
  docker run --rm --network none -v "$1:/d" busybox sh -c "dd if=/dev/zero of=/d/f bs=1M count=$2 2>/dev/null; cat /d/f | wc -c"
}
docker volume create -o size=2m small >/dev/null
docker volume create free >/dev/null
check "a volume without a size takes what there is" 4194304 "$(write free 4)"
# The directory itself takes a little of it.
check "one with a size takes no more" 1 "$(($(write small 4) / 1048577))"
docker volume rm small >/dev/null
docker volume create -o size=6m small >/dev/null
check "another one of its name has another size" 5242880 "$(write small 5)"
check "a size is shown" 6m "$(docker volume inspect -f '{{.Options.size}}' small)"
docker run --rm --network none --mount type=volume,source=other,target=/d,volume-opt=size=1m busybox true
check "a mount may ask for one" 1 "$(($(write other 3) / 524289))"
docker volume rm small free other >/dev/null
check "what cannot be kept is refused" 1 "$(docker volume create -o size=x bad >/dev/null 2>&1; echo $?)"
echo "all checks passed"
