#!/bin/sh
# Runs as root in the guest, started by virtme's init: enter.sh SHARED SECONDS TAG
#
# Gives the job SHARED/job.sh a root of its own: the machine's files (9p, by TAG), where every write goes to memory. In
# virtme's own root each file is read anew from the host at each use, which makes the start of a Python take a minute;
# this one keeps what it has read.
set -eu
shared=$1 limit=$2 tag=$3
exec 2>&1

# A guest whose host is gone ends: standard input closes then. (A shell gives its background jobs /dev/null as input.)
exec 3<&0
(cat <&3 >/dev/null && echo o >/proc/sysrq-trigger) &
exec </dev/null 3<&-

udevadm control --exit || true # it has found the devices; its rules would run for each veth that a test makes

place=/mnt
mount -t tmpfs tmpfs $place
mkdir $place/host $place/changes $place/work $place/root
mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 "$tag" $place/host
mount -t overlay -o lowerdir=$place/host,upperdir=$place/changes,workdir=$place/work overlay $place/root
release=$(uname -r)
mkdir -p $place/root/lib/modules
ln -sfn "$(readlink -f "/lib/modules/$release")" "$place/root/lib/modules/$release"
for directory in dev proc run sys; do mount --rbind /$directory $place/root/$directory; done
modprobe nf_conntrack

# No chroot: a process in one may not make a user namespace (unshare(2), EPERM).
# shellcheck disable=SC2016 # the inner shell expands it
exec unshare --mount sh -euc '
  cd "$1"
  mkdir -p .former
  pivot_root . .former
  umount --lazy .former
  rmdir .former
  echo "pointsman.vm: up after $(cut -d " " -f 1 /proc/uptime) s"
  exec timeout --kill-after=10 "$3" sh "$2/job.sh"
' enter $place/root "$shared" "$limit"
