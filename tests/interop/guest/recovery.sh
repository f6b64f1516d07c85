# Mutual CHAP, header and data digests, ext4 under load, cut off twice.
start_initiator
a=node.session.auth c='node.conn[0]'
node "$iqn" "$port" $a.authmethod=CHAP $a.username=bob $a.password=in-the-kernel-round \
  $a.username_in=carol $a.password_in=said-by-the-target "$c.iscsi.HeaderDigest=CRC32C" "$c.iscsi.DataDigest=CRC32C" \
  node.session.timeo.replacement_timeout=120 "$c.timeo.noop_out_interval=2" "$c.timeo.noop_out_timeout=4"
login "$iqn" "$port"
retry 30 disk_is_there 1
iscsiadm -m session -P 3 >/tmp/session
for wanted in 'HeaderDigest: CRC32C' 'DataDigest: CRC32C' 'username: bob' 'username_in: carol'; do
  grep -q "$wanted" /tmp/session || { cat /tmp/session; fail "the session has no $wanted"; }
done
dev=/dev/$(disk)
mkfs.ext4 -q -F "$dev"
mount -t ext4 "$dev" /mnt
mark mounted
write_files /mnt 1 50
sync
umount /mnt
e2fsck -f -n "$dev" || fail "the file system is not clean"
mount -t ext4 -o ro "$dev" /mnt
echo 3 >/proc/sys/vm/drop_caches
check_files /mnt
umount /mnt
logout "$iqn" "$port"
