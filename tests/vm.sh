#!/usr/bin/env bash
# Boots a small virtual machine whose kernel has every cgroup v2 controller, runs a script in it, prints what it printed.
#
#   tests/vm.sh SCRIPT [FILE...]
#
# VM_MODULES names further modules of the kernel that the script needs.
# SCRIPT runs as root in the machine under busybox sh; each FILE is at /bin there, with the libraries it needs. Exits with
# the script's status. The kernel is Debian's cloud kernel, fetched with apt-get and unpacked under target/vm; nothing is installed.
set -euo pipefail

script=$(realpath "$1")
shift
work=$(realpath -m "${VM_DIR:-target/vm}")
mkdir -p "$work"

# The newest cloud kernel of the distribution, unpacked once.
if ! compgen -G "$work/kernel/boot/vmlinuz-*" >/dev/null; then
  package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image/ {print $2; exit}')
  if [ -z "$package" ]; then
    apt-get update -qq
    package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image/ {print $2; exit}')
  fi
  if [ -z "$package" ] || ! (cd "$work" && apt-get download -qq "$package"); then
    echo "vm.sh: the kernel package of linux-image-cloud-amd64 cannot be had; apt-get must be able to download it" >&2
    exit 69
  fi
  # Unpacked beside and renamed, so that an interrupted run leaves no half of it.
  rm -rf "$work/kernel.new"
  dpkg -x "$work/$package"_*.deb "$work/kernel.new"
  rm -rf "$work/kernel" "$work/$package"_*.deb
  mv "$work/kernel.new" "$work/kernel"
fi
kernel=$(compgen -G "$work/kernel/boot/vmlinuz-*" | tail -n 1)

root=$(mktemp -d "$work/root.XXXXXX")
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,proc,sys,dev,tmp,run,var,etc,modules,newroot,lib64}
cp /bin/busybox "$root/bin/busybox"
cp "$script" "$root/script"
# Layers, and what networks are made of. A real host loads them by itself when they are asked for.
for module in overlay configs nfnetlink nf_defrag_ipv4 nf_defrag_ipv6 libcrc32c crc32c_generic nf_conntrack nf_nat nf_tables \
  nft_chain_nat nft_masq nft_ct nft_nat nft_fib nft_fib_ipv4 nft_fib_ipv6 nft_fib_inet nft_reject nft_reject_inet \
  nf_reject_ipv4 nf_reject_ipv6 llc stp bridge br_netfilter veth \
  virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk bfq ${VM_MODULES:-}; do
  find "$work/kernel/lib/modules" -name "$module.ko" -exec cp {} "$root/modules/" \;
done
for file in "$@"; do
  cp "$file" "$root/bin/"
  # Shared libraries by the paths that the program loads them from; a static program has none.
  { ldd "$file" 2>/dev/null | grep -oE '/[^ ]+' || true; } | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
  done
done

cat >"$root/init" <<'INIT'
#!/bin/busybox sh
# First stage: a container's root cannot be pivoted away from the initial ramfs, so everything moves to a tmpfs.
/bin/busybox --install -s /bin
mount -t tmpfs -o size=90% tmpfs /newroot
for entry in bin etc lib lib64 usr modules script tmp var run root; do
  [ -e "/$entry" ] && cp -a "/$entry" /newroot/
done
mkdir -p /newroot/proc /newroot/sys /newroot/dev
cp /second /newroot/second
exec switch_root /newroot /second
INIT
cat >"$root/second" <<'SECOND'
#!/bin/busybox sh
export PATH=/bin HOME=/
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
# Some need others that come later in the alphabet, so what fails is tried again as long as that helps.
before=
while left=$(for module in /modules/*.ko; do
  [ -e "$module" ] && { insmod "$module" 2>/dev/null && rm "$module" || echo "$module"; }
done) && [ "$left" != "$before" ]; do before=$left; done
[ -z "$left" ] || echo "modules that were not loaded: $left"
echo root:x:0:0:root:/:/bin/sh >/etc/passwd
echo root:x:0: >/etc/group
sh /script
echo "vm-status $?"
poweroff -f
SECOND
chmod +x "$root/init" "$root/second"
(cd "$root" && find . | cpio -o -H newc --quiet) >"$work/initramfs.$$"

# A disk, /dev/vda: a file system in memory has no device to be limited, and cannot map ids.
disk="$work/disk.$$"
truncate -s 1G "$disk"
mkfs.ext4 -q -F "$disk"

# Emulated: the machine needs no virtualisation of its host.
output="$work/console.$$"
timeout "${VM_TIMEOUT:-300}" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m "${VM_MEMORY:-1536}" \
  -kernel "$kernel" -initrd "$work/initramfs.$$" -append "console=ttyS0 quiet panic=-1 no_timer_check" \
  -drive "file=$disk,format=raw,if=virtio" -nographic -no-reboot -nic none | tr -d '\r' | tee "$output"
rm -f "$work/initramfs.$$" "$disk"
status=$(grep -oE '^vm-status [0-9]+' "$output" | tail -n 1 | cut -d' ' -f2)
rm -f "$output"
exit "${status:-70}"
