# Networks that need drivers which not every kernel has: ipvlan, VLANs, SCTP. Runs inside the virtual machine of vm.sh:
#
#   VM_MODULES="dummy macvlan ipvlan mrp garp 8021q udp_tunnel ip6_udp_tunnel sctp" \
#       tests/vm.sh tests/networks_vm.sh target/debug/berthd "$(command -v docker)"
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

mkdir -p /tmp/image/bin
cp /bin/busybox /tmp/image/bin/
for applet in sh cat sleep ping ip httpd wget mkdir echo; do ln -s busybox "/tmp/image/bin/$applet"; done
ip link add dummy0 type dummy
ip link set dummy0 up

berthd --data-root /tmp/data --exec-root /tmp/exec --host unix:///tmp/berth.sock --instance vm >/tmp/berth.log 2>&1 &
engine=$!
export DOCKER_HOST=unix:///tmp/berth.sock
tries=0
until docker version >/dev/null 2>&1; do
  tries=$((tries + 1))
  kill -0 $engine && [ $tries -lt 60 ] || check "the engine starts" yes "$(cat /tmp/berth.log)"
  sleep 0.5
done
tar -C /tmp/image -c . | docker import - busybox:latest >/dev/null

serve='mkdir /w; echo hello > /w/index.html; exec httpd -f -p 80 -h /w'
number=0
meet() { # WHAT OPTIONS: two containers of a network meet, by name
  number=$((number + 1))
  docker network create $2 --subnet "198.18.$number.0/24" "net$number" >/dev/null || check "$1 is made" yes no
  docker run -d --name "server$number" --network "net$number" busybox sh -c "$serve" >/dev/null
  check "$1" hello "$(docker run --rm --network "net$number" busybox sh -c \
    "until wget -q -O- http://server$number/; do sleep 0.2; done")"
  check "$1 has the lowest address" "198.18.$number.2" "$(docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "server$number")"
}
leave() {
  docker rm -f "server$number" >/dev/null
  docker network rm "net$number" >/dev/null
}
meet "ipvlan" "-d ipvlan -o parent=dummy0"
leave
meet "ipvlan of layer 3" "-d ipvlan -o parent=dummy0 -o ipvlan_mode=l3"
leave
meet "ipvlan without a parent" "-d ipvlan --internal"
leave
meet "macvlan" "-d macvlan -o parent=dummy0"
leave
meet "macvlan upon a VLAN that is made for it" "-d macvlan -o parent=dummy0.50"
check "the VLAN is there" 1 "$(ip link | grep -c 'dummy0.50')"
leave
check "and goes with its network" 0 "$(ip link | grep -c 'dummy0.50')"

docker run -d --name many -p 5000:80/sctp busybox sleep 1000 >/dev/null
check "SCTP is published" "0.0.0.0:5000" "$(docker port many 80/sctp | head -n 1)"
check "and the port is held" 1 "$(grep -c ' 5000 ' /proc/net/sctp/eps)"
docker rm -f many >/dev/null
check "until its container goes" 0 "$(grep -c ' 5000 ' /proc/net/sctp/eps)"
echo "all checks passed"
