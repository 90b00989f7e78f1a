#!/bin/bash
# Becomes the init of a host, inside new namespaces: systemd, on a root of the host's own. Of this
# machine only programs, the checkout and the tests' packages are there, and none can be changed.
# $1: the host's disk, $2: the checkout, $3: the packages.
set -eu
disk=$1 checkout=$2 packages=$3

show() { # $1 appears as $2, for reading only.
    mount --bind "$1" "$2"
    mount -o remount,bind,ro "$2"
}

mount --make-rprivate /
mount --bind "$disk" "$disk"
cd "$disk"
show /usr usr
mount --bind units usr/lib/systemd/system
mount -t tmpfs tmpfs usr/lib/systemd/system-generators
mount --bind local usr/local
show "$checkout" root/pgregent
show "$packages" opt/packages

mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 none sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp

mount -t tmpfs -o mode=755 tmpfs dev
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty dev/
ln -s /proc/self/fd dev/fd
touch dev/log
mkdir dev/shm dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx

pivot_root . mnt
umount -l /mnt
systemd-tmpfiles --create --prefix=/run/haproxy --prefix=/run/postgresql
exec env -i container=other LANG=C.UTF-8 \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    SYSTEMD_LOG_TARGET=console /lib/systemd/systemd --system --unit=multi-user.target \
    --show-status=no
