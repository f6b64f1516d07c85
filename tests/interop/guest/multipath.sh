# Two sessions to one unit, joined by dm-multipath; each path is lost in turn while files are written.
start_initiator
for m in dm_mod dm_multipath dm_service_time dm_round_robin scsi_dh_alua; do modprobe "$m"; done
for port in $port1 $port2; do
  node "$iqn" "$port" node.session.timeo.replacement_timeout=3 'node.conn[0].timeo.noop_out_interval=2' \
    'node.conn[0].timeo.noop_out_timeout=2'
  login "$iqn" "$port"
done
retry 30 disk_is_there 2
# No udevd runs here: multipathd wants to know of it that a disk is set up, and otherwise asks the disk itself (VPD page 83h).
mkdir -p /run/udev/data
for name in $(ls /sys/block | grep '^sd'); do
  echo 'I:1' >"/run/udev/data/b$(cat "/sys/block/$name/dev")"
done
cat >/etc/multipath.conf <<C
defaults {
  find_multipaths no
  user_friendly_names no
  retrigger_tries 0
  path_checker tur
  polling_interval 2
  max_polling_interval 4
  no_path_retry 60
  failback immediate
}
C
multipathd -d -v 3 &>/tmp/multipathd.log &
active() { [ "$(dmsetup status --target multipath | grep -oE '[0-9]+:[0-9]+ A' | wc -l)" = "$1" ]; }
map_is_there() { [ -n "$(dmsetup ls --target multipath | grep -v '^No ')" ]; }
retry 25 map_is_there
retry 30 active 2
name=$(dmsetup ls --target multipath | head -n 1 | awk '{print $1}')
dmsetup mknodes
dev=/dev/mapper/$name
mkfs.ext4 -q -F "$dev"
mount -t ext4 "$dev" /mnt
# Writing never pauses while paths come and go.
(n=1; while [ ! -e /tmp/stop ]; do write_files /mnt $n $((n + 4)); n=$((n + 5)); mark wrote; done) &
writer=$!
mark "both paths"
for turn in 1 2; do
  await cut
  retry 60 active 1
  mark "one path"
  await mended
  retry 90 active 2
  mark "both paths"
done
touch /tmp/stop
wait $writer || fail "the writer failed"
sync
umount /mnt
e2fsck -f -n "$dev" || fail "the file system is not clean"
mount -t ext4 -o ro "$dev" /mnt
echo 3 >/proc/sys/vm/drop_caches
check_files /mnt
umount /mnt
