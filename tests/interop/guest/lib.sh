# What every job uses. 10.0.2.2 is the host's 127.0.0.1.
set -Eeuo pipefail
trap 'echo "peer-failed: line $LINENO: $BASH_COMMAND: status $?"' ERR
host=10.0.2.2
stty -echo 2>/dev/null || true

# The daemons' logs go to /tmp.
fail() {
  local log
  for log in /tmp/*.log; do [ -s "$log" ] && { echo "$log:"; tail -n 40 "$log"; }; done
  echo "peer-failed: $*"; exit 1
}
mark() { echo "peer-mark: $*"; }
# Waits until the host says so.
await() { local line; while read -r line; do [ "$line" = "$1" ] && return 0; done; fail "the host never said $1"; }
# retry SECONDS COMMAND...
retry() { local left=$1; shift; until "$@"; do ((left-- > 0)) || fail "not so in time: $*"; sleep 1; done; }

# 21: it answers, and there are no sessions.
iscsid_answers() { local code=0; iscsiadm -m session >/dev/null 2>&1 || code=$?; [ $code = 21 ]; }
start_initiator() {
  for m in iscsi_tcp sd_mod sg ext4; do modprobe "$m"; done
  iscsid -f -d 2 &>/tmp/iscsid.log &
  retry 20 iscsid_answers
}

# node IQN PORT KEY=VALUE...
node() {
  local iqn=$1 port=$2; shift 2
  iscsiadm -m node -T "$iqn" -p "$host:$port" -o new >/dev/null
  local pair
  for pair in "$@"; do
    iscsiadm -m node -T "$iqn" -p "$host:$port" -o update -n "${pair%%=*}" -v "${pair#*=}"
  done
}

login() { iscsiadm -m node -T "$1" -p "$host:$2" --login || fail "no login to $1 at port $2"; }
logout() { iscsiadm -m node -T "$1" -p "$host:$2" --logout; }

# The name of the only disk, or of the Nth.
disk_is_there() { ls /sys/block | grep -c '^sd' | grep -qx "$1"; }
disk() { ls /sys/block | grep '^sd' | sed -n "${1:-1}p"; }

# write_files DIR FIRST LAST: each synced before its checksum is noted, so that what is noted must be there.
write_files() {
  local i
  for ((i = $2; i <= $3; i++)); do
    dd if=/dev/urandom of="$1/file$i" bs=64k count=$((1 + i % 7)) conv=fsync 2>/dev/null || fail "cannot write file $i"
    (cd "$1" && sha256sum "file$i") >>/tmp/sums
    ((i % 10)) || mark "written $i"
  done
}
check_files() { (cd "$1" && sha256sum -c --status /tmp/sums 2>/dev/null || sha256sum -c -s /tmp/sums) || fail "checksums differ"; }
