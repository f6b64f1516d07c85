#!/bin/busybox sh
# The guest's first process: a bare system, then the job, then its status on the console.
/bin/busybox --install -s /bin
export PATH=/sbin:/bin HOME=/tmp
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm; mount -t tmpfs tmp /dev/shm; mount -t tmpfs tmp /run
mkdir -p /run/lock/iscsi /run/lock
echo 4 >/proc/sys/kernel/printk
hostname peer
ip link set lo up
for m in virtio_pci virtio_net virtio_rng crc32c_generic; do modprobe -q $m; done
ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.2.2
bash /job/script; echo "peer-status: $?"
sync; poweroff -f
