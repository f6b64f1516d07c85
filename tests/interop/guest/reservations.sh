# Registers with APTPL, reserves, and finds both again after the target was killed and restarted.
start_initiator
node "$iqn" "$port" node.session.timeo.replacement_timeout=120
login "$iqn" "$port"
retry 30 disk_is_there 1
dev=/dev/$(disk)
sg_persist --no-inquiry --out --register --param-aptpl --param-sark=abc123 "$dev"
sg_persist --no-inquiry --out --reserve --param-rk=abc123 --prout-type=5 "$dev"
mark reserved
await restarted
keys() { sg_persist --no-inquiry --in --read-keys "$dev" >/tmp/keys 2>/tmp/errors && grep -qi abc123 /tmp/keys; }
retry 60 keys
sg_persist --no-inquiry --in --read-reservation "$dev" >/tmp/reservation
grep -qi abc123 /tmp/reservation || fail "the reservation is gone"
grep -qi 'write exclusive, registrants only' /tmp/reservation || { cat /tmp/reservation; fail "it is another type"; }
dd if=/dev/zero of="$dev" bs=4096 count=1 conv=fsync 2>/dev/null || fail "its holder cannot write"
sg_persist --no-inquiry --out --release --param-rk=abc123 --prout-type=5 "$dev"
sg_persist --no-inquiry --out --register --param-rk=abc123 --param-sark=0 "$dev"
logout "$iqn" "$port"
