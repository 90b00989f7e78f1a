#!/bin/bash
# Becomes the init of a host of its own, inside new namespaces: systemd, on this machine's files,
# of which the host changes copies. $1: the host's folder (it outlives the host), $2: its name.
set -eu
folder=$1 name=$2
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mount -t cgroup2 none /sys/fs/cgroup

mkdir /run/dev /run/dev/shm /run/dev/pts
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /run/dev/
ln -s /proc/self/fd /run/dev/fd
touch /run/dev/log
mount -t tmpfs tmpfs /run/dev/shm
mount -t devpts -o ptmxmode=666 devpts /run/dev/pts
ln -s pts/ptmx /run/dev/ptmx
mount --rbind /run/dev /dev

for path in /etc /opt /usr/local /var/lib/haproxy; do
    mkdir -p "$folder/changes$path" "$folder/work$path"
    mount -t overlay overlay \
        -o "lowerdir=$path,upperdir=$folder/changes$path,workdir=$folder/work$path" "$path"
done
echo "$name" > /etc/hostname
# Of the units of this machine only those that the test chose.
for path in /etc/systemd/system /usr/lib/systemd/system /var/log \
    /var/lib/postgresql /var/lib/zookeeper /opt/pgregent; do
    mkdir -p "$path"
    mount --bind "$folder/mounts$path" "$path"
done
mount -t tmpfs tmpfs /usr/lib/systemd/system-generators
systemd-tmpfiles --create --prefix=/run/haproxy --prefix=/run/postgresql
exec env -i container=other LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    SYSTEMD_LOG_TARGET=console /lib/systemd/systemd --system --unit=multi-user.target \
    --show-status=no
