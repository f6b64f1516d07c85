//! The script.

use super::{By, Step, What};

fn step(what: What, line: &str) -> Step {
    Step { what, line: line.to_owned(), differences: Vec::new(), quiet: false, sorted: false, until: None }
}

fn adm(line: &str) -> Step {
    step(What::Adm, line)
}

fn admin(line: &str) -> Step {
    step(What::Admin, line)
}

fn img(line: &str) -> Step {
    step(What::Img, line)
}

fn write(name: &str, text: &str) -> Step {
    step(What::Write, &format!("{name}\n{text}")).quiet()
}

/// All steps in their order.
pub(super) fn steps() -> Vec<Step> {
    [
        command_lines(),
        system(),
        targets(),
        units(),
        unit_parameters(),
        accounts(),
        rules(),
        portals_and_drivers(),
        sessions(),
        clean_up(),
        admin_execute(),
        admin_rest(),
        images(),
        stop_driver(),
    ]
    .concat()
}

const LISTS: &str =
    "system and lld show list what there is: no iser, no tape, changer, cd, osd or pass-through";
const REFUSED_TYPES: &str = "device types and backing stores that do not exist are refused, not half made";
const EXACT_OPTIONS: &str = "an option that tgt would ignore, cut off or take for another value is refused";
const ALL_OR_NOTHING: &str = "an update of several parameters is done as a whole or not at all";
const IN_USE: &str = "a device that somebody uses is refused, unless bsopts has allow-in-use";
const TWO_RULES: &str = "-I and -Q in one call are two rules; tgt takes both words for one address";
const NO_MEDIUM: &str = "a unit without a medium is not put online";
const NUMBERS: &str = "LUN numbers are those that SCSI can address: below 16384";
const VERSION: &str = "--version and --help name Plinth and its options as well";
const DEBUG: &str = "-d prints why the daemon refused, where it says so";
const JSON: &str = "--json and --extended do not exist in tgt";
const LIMITS: &str = "limits of IOPS and bandwidth do not exist in tgt";
const CALLBACK: &str = "RedirectCallback would run a program at each login";

fn command_lines() -> Vec<Step> {
    let mut steps: Vec<_> = [
        "",
        "--zork",
        "--d",
        "-z",
        "--tid",
        "-t",
        "--help=x",
        "-F",
        "-m zork",
        "-o zork",
        "-o show",
        "-m target",
        "-m target -o show foo",
        "-- -m target",
        "-t abc",
        "-t -5",
        "-t 99999999999",
        "-t 4294967295",
        "-l -1",
        "-s x",
        "-c 99999999999",
        "-C 99999",
        "-m sys -o new",
        "-m sys -o update",
        "-m sys -o update -n x -v y -t 1",
        "-m target -o new",
        "-m target -o new -t 0 -T iqn.x",
        "-m target -o new -t 1",
        "-m target -o new -t 1 -T iqn.x -l 1",
        "-m target -o show -l 3",
        "-m target -o stat",
        "-m target -o start -t 1",
        "-m target -o bind -t 1",
        "-m target -o update -t 1 -n x",
        "-m lu -o new -t 1",
        "-m lu -o new -t 0 -l 1",
        "-m lu -o show -t 1 -l 1",
        "-m lu -o update -t 1 -l 1 -b x",
        "-m lu -o new -t 1 -l 1 -Y zork",
        "-m lu -o new -t 1 -l 1 -Y changer",
        "-m account -o new",
        "-m account -o new -u x",
        "-m account -o bind -t 1",
        "-m account -o update",
        "-m account -o show -u x",
        "-m portal -o new",
        "-m portal -o update",
        "-m portal -o show -t 1",
        "-P portal=1.2.3.4 -m portal -o new",
        "-m lld -o new",
        "-m lld -o show -t 1",
        "-m session",
        "-m target -o bind -t 1 -B foo,bar",
    ]
    .into_iter()
    .map(adm)
    .collect();
    steps.push(adm("--version").differs(By::Tool, 0, &["1.0.85 (plinth"], VERSION));
    let help = ["Usage: tgtadm [OPTION]", "--lld <driver> --mode lld --op start", "--json"];
    steps.push(adm("-h").differs(By::Tool, 0, &help, VERSION));
    steps
}

fn system() -> Vec<Step> {
    let lists = ["State: ready", "iscsi: ready", "rdwr (bsoflags sync:direct)", "iSNSServerPort=3205"];
    vec![
        adm("-m system -o show").differs(By::Daemon, 0, &lists, LISTS),
        adm("--mode sys --op stat"),
        adm("-m sys -o update -n debug -v on"),
        adm("-m sys -o update -n debug -v off"),
        adm("-m sys -o update -n debug -v maybe"),
        adm("-m sys -o update -n State -v offline"),
        adm("-m sys -o show").differs(By::Daemon, 0, &["State: offline"], LISTS),
        adm("-m sys -o update -n State -v zork"),
        adm("-m sys -o update -n State -v ready"),
        adm("-m sys -o update -n iSNSServerIP -v 1.2.3.4"),
        adm("-m sys -o update -n iSNSServerPort -v x"),
        adm("-m sys -o update -n iSNSServerPort -v 77"),
        adm("-m sys -o update -n iSNSAccessControl -v On"),
        adm("-m sys -o update -n zork -v 1"),
        adm("-m sys -o show").differs(By::Daemon, 0, &["IP=1.2.3.4", "Port=77", "AccessControl=On"], LISTS),
        adm("-m lld -o show").differs(By::Daemon, 0, &["LLDs:\n    iscsi: ready"], LISTS),
        adm("-L zork -m target -o show"),
        adm("-L iser -m target -o show"),
        adm("-L zork -m lld -o start"),
        adm("-L iser -m lld -o start").differs(By::Daemon, 22, &["can't find the driver"], LISTS),
        adm("-m lld -o start"),
    ]
}

fn targets() -> Vec<Step> {
    vec![
        adm("-m target -o show"),
        adm("--lld iscsi --mode target --op new --tid 1 --targetname iqn.2001-04.com.example:one"),
        adm("-m target -o new -t 1 -T iqn.2001-04.com.example:other"),
        adm("-m target -o new -t 2 -T iqn.2001-04.com.example:one"),
        adm("-m target -o new -t 2 -T iqn_wrong"),
        adm("-m tgt -o new -t 7 -T iqn.2001-04.com.example:seven"),
        adm("-m target -o new -t 3 -T iqn.2001-04.com.example:Three"),
        adm("-m target -o new -t 4 -T \"\"").differs(By::Daemon, 22, &["invalid request"], EXACT_OPTIONS),
        adm("-m target -o delete -t 4").quiet(),
        adm("-m target -o show"),
        adm("-m lld -o show").differs(By::Daemon, 0, &["Target 7: ", "Target 3: "], LISTS),
        adm("-mtarget -oshow -t1"),
        adm("-m target -o show -t 9"),
        adm("-m target -o show -t 0"),
        adm("-m target -o stat -t 1"),
        adm("-m target -o stat -t 9"),
        adm("-m target -o update -t 1 -n state -v offline"),
        adm("-m target -o update -t 1 -n state -v zork"),
        adm("-m target -o update -t 9 -n state -v ready"),
        adm("-m target -o update -t 1 -n MaxBurstLength -v 4096"),
        adm("-m target -o update -t 1 -n maxburstlength -v 0x2000"),
        adm("-m target -o update -t 1 -n MaxBurstLength -v 5"),
        adm("-m target -o update -t 1 -n MaxBurstLength -v 16777216"),
        adm("-m target -o update -t 1 -n ImmediateData -v No"),
        adm("-m target -o update -t 1 -n ImmediateData -v no"),
        adm("-m target -o update -t 1 -n HeaderDigest -v CRC32C,None"),
        adm("-m target -o update -t 1 -n DataDigest -v MD5"),
        adm("-m target -o update -t 1 -n MaxOutstandingUnexpectedPDUs -v 1"),
        adm("-m target -o update -t 1 -n MaxConnections -v 8"),
        adm("-m target -o update -t 1 -n MaxQueueCmd -v 513"),
        adm("-m target -o update -t 1 -n MaxQueueCmd -v 64"),
        adm("-m target -o update -t 1 -n ErrorRecoveryLevel -v 2"),
        adm("-m target -o update -t 1 -n DefaultTime2Wait -v 3601"),
        adm("-m target -o update -t 1 -n zork -v 1"),
        adm("-m target -o update -t 1 -n nop_interval -v 5"),
        adm("-m target -o update -t 1 -n nop_count -v 3"),
        adm("-m target -o show -t 1"),
        adm("-m target -o show"),
        adm("-m target -o update -t 7 -n RedirectAddress -v 10.1.2.3"),
        adm("-m target -o show -t 7"),
        adm("-m target -o update -t 7 -n RedirectPort -v 3261"),
        adm("-m target -o update -t 7 -n RedirectReason -v Maybe"),
        adm("-m target -o update -t 7 -n RedirectReason -v Permanent"),
        adm("-m target -o show -t 7"),
        adm("-m target -o update -t 3 -n RedirectCallback -v /bin/true").differs(
            By::Daemon,
            22,
            &["this operation isn't supported"],
            CALLBACK,
        ),
        adm("-m target -o delete -t 9"),
        adm("-m target -o delete -t 3"),
        adm("-m target -o update -t 1 -n state -v ready"),
        adm("-m sys -o delete"),
    ]
}

fn units() -> Vec<Step> {
    vec![
        adm("-m logicalunit -o new -t 1 -l 1 -b $D/d1"),
        adm("-m lu -o new -t 1 -l 1 -b $D/d2"),
        adm("-m lu -o new -t 9 -l 1 -b $D/d2"),
        adm("-m lu -o new -t 1 -l 0 -b $D/d2"),
        adm("-m lu -o new -t 1 -l 2 -b $D/nosuch"),
        adm("-m lu -o new -t 1 -l 2 -b $D"),
        adm("-m lu -o new -t 1 -l 2 -b $D/d2 -E zork"),
        adm("-m lu -o new -t 1 -l 2 -b $D/d2 -f fast"),
        adm("-m lu -o new -t 1 -l 2 -b $D/d2 -E aio -f direct"),
        adm("-m lu -o new -t 1 -l 2 -b $D/d2 -f sync:direct"),
        adm("-m lu -o new -t 1 -l 3 -b $D/d3 -f \" sync\" -y 4096"),
        adm("-m lu -o new -t 1 -l 4 -E null -b anything"),
        adm("-m lu -o new -t 1 -l 5"),
        adm("-m lu -o new -t 1 -l 6 -b $D/d4 -E aio"),
        adm("-m lu -o new -t 1 -l 0x10 -E null -b x -S some:options"),
        adm("-m lu -o new -t 1 -l 30 -b $D/d5 -y 1000").differs(
            By::Daemon,
            22,
            &["invalid request"],
            EXACT_OPTIONS,
        ),
        adm("-m lu -o delete -t 1 -l 30").quiet(),
        adm("-m lu -o new -t 1 -l 30 -b $D/d5,more").differs(
            By::Daemon,
            22,
            &["invalid request"],
            EXACT_OPTIONS,
        ),
        adm("-m lu -o delete -t 1 -l 30").quiet(),
        adm("-m lu -o new -t 1 -l 30 -b $D/d1").differs(By::Daemon, 22, &["invalid request"], IN_USE),
        adm("-m lu -o delete -t 1 -l 30").quiet(),
        adm("-m lu -o new -t 1 -l 30 -b $D/d1 -S allow-in-use"),
        adm("-m lu -o delete -t 1 -l 30"),
        adm("-m lu -o new -t 1 -l 30 -Y cd").differs(By::Daemon, 22, &["isn't supported"], REFUSED_TYPES),
        adm("-m lu -o delete -t 1 -l 30").quiet(),
        adm("-m lu -o new -t 1 -l 30 -Y osd -b $D/d5").differs(
            By::Daemon,
            22,
            &["isn't supported"],
            REFUSED_TYPES,
        ),
        adm("-m lu -o delete -t 1 -l 30").quiet(),
        adm("-m lu -o new -t 1 -l 99999 -E null -b x").differs(By::Daemon, 22, &["invalid request"], NUMBERS),
        adm("-m lu -o delete -t 1 -l 99999").quiet(),
        adm("-m target -o show"),
        adm("-m lu -o stat -t 1 -l 1"),
        adm("-m lu -o stat -t 1 -l 77"),
        adm("-m lu -o stat -t 9 -l 1"),
        adm("-m lu -o delete -t 1 -l 0"),
        adm("-m lu -o delete -t 1 -l 77"),
        adm("-m lu -o delete -t 9 -l 1"),
        adm("-m lu -o delete -t 1 -l 3"),
        adm("-m target -o show"),
    ]
}

fn unit_parameters() -> Vec<Step> {
    let update = |params: &str| adm(&format!("-m lu -o update -t 1 -l 1 -P {params}"));
    vec![
        update("scsi_id=my-id,scsi_sn=my-sn"),
        update("vendor_id=VENDOR,product_id=PRODUCT,product_rev=9.9"),
        update("readonly=1"),
        update("removable=1,thin_provisioning=1,sense_format=1"),
        update("lbppbe=3,la_lba=0,optimal_xfer_gran=8,optimal_xfer_len=128,rotation_rate=1"),
        update("mode_page=8:0:18:0x10:0:0xff:0xff"),
        update("mode_page=8:0:1:1:1:1:1"),
        update("mode_page=8:0:2:300").differs(By::Daemon, 22, &["invalid request"], EXACT_OPTIONS),
        update("mode_page=8:0:18:0x10:0:0xff:0xff").quiet(),
        update("zork=1"),
        update("vendor_id="),
        update("zork=1,online=1").differs(By::Daemon, 22, &["invalid request"], ALL_OR_NOTHING),
        update("scsi_sn=0123456789012345678901234567890123456789").differs(
            By::Daemon,
            22,
            &["invalid request"],
            EXACT_OPTIONS,
        ),
        update("scsi_sn=my-sn").quiet(),
        update("path=$D/d5"),
        update("online=0"),
        update("path=$D/nosuch"),
        adm("-m lu -o update -t 1 -l 1 -P path=$D/d5"),
        adm("-m target -o show"),
        update("online=0"),
        update("path=$D/d1"),
        update("readonly=0,removable=0"),
        adm("--mode lu --op update --tid 1 --lun 1 --param sense_format=0"),
        adm("-m lu -o update -t 1 -l 1"),
        adm("-m lu -o update -t 1 -l 77 -P online=1"),
        adm("-m lu -o update -t 9 -l 1 -P online=1"),
        adm("-m lu -o update -t 1 -l 0 -P vendor_id=X"),
        adm("-m lu -o update -t 1 -l 5 -P online=1").differs(By::Daemon, 22, &["invalid request"], NO_MEDIUM),
        adm("-m lu -o update -t 1 -l 5 -P online=0").quiet(),
        adm("-m lu -o update -t 1 -l 5 -P path=$D/d3"),
        update("iops_limit=1000,bps_limit=0").differs(By::Daemon, 0, &[], LIMITS),
        update("iops_limit=0").quiet(),
        adm("-m target -o show"),
        adm("-m target -o show --json").differs(By::Tool, 22, &["knows neither --json"], JSON).differs(
            By::Both,
            0,
            &["\"name\": \"iqn.2001-04.com.example:one\""],
            JSON,
        ),
        adm("-m lu -o stat -t 1 -l 1 --extended")
            .differs(By::Tool, 22, &["knows neither --json"], JSON)
            .differs(By::Both, 0, &["All initiators:"], JSON),
        adm("-d -m lu -o new -t 1 -l 2 -b $D/d5").differs(By::Tool, 22, &["already exists"], DEBUG),
    ]
}

fn accounts() -> Vec<Step> {
    vec![
        adm("-m account -o show"),
        adm("-m account -o new -u bob -p secret"),
        adm("-m account -o new -u bob -p other"),
        adm("-m account -o new -u carol -p \"with, comma and blanks\""),
        adm("-m account -o new --user=dave --password=x"),
        adm("-m account -o show"),
        adm("-m account -o bind -t 1 -u bob"),
        adm("-m account -o bind -t 1 -u bob"),
        adm("-m account -o bind -t 1 -u nobody"),
        adm("-m account -o bind -t 9 -u bob"),
        adm("-m account -o bind -t 1 -u dave"),
        adm("-m account -o bind -t 1 -u carol --outgoing"),
        adm("-m account -o bind -t 1 -u bob --outgoing"),
        adm("-m account -o unbind -t 1 -u carol"),
        adm("-m account -o bind -u bob"),
        adm("-m account -o bind -u carol --outgoing"),
        adm("-m sys -o show").differs(
            By::Daemon,
            0,
            &["Account information:\n\n    bob\n    carol (outgoing)"],
            LISTS,
        ),
        adm("-m target -o show"),
        adm("-m account -o unbind -t 1 -u dave"),
        adm("-m account -o unbind -t 1 -u dave"),
        adm("-m account -o unbind -t 1 -u bob --outgoing"),
        adm("-m account -o unbind -t 1 -u carol --outgoing"),
        adm("-m account -o unbind -u bob"),
        adm("-m account -o unbind -u carol --outgoing"),
        adm("-m account -o delete -u nobody"),
        adm("-m account -o delete -u bob"),
        adm("-m account -o delete -u carol"),
        adm("-m account -o show"),
        adm("-m target -o show"),
    ]
}

fn rules() -> Vec<Step> {
    vec![
        adm("-m target -o bind -t 1 -I ALL"),
        adm("-m target -o bind -t 1 -I ALL"),
        adm("-m target -o bind -t 1 -I 10.0.0.0/8"),
        adm("-m target -o bind -t 1 --initiator-address [2001:db8::]/32"),
        adm("-m target -o bind -t 1 -Q iqn.2001-04.com.example:initiator"),
        adm("-m target -o bind -t 1 -Q iqn.2001-04.com.example:initiator"),
        adm("-m target -o bind -t 9 -I ALL"),
        adm("-m target -o bind -t 9 -Q iqn.x"),
        adm("-m target -o show"),
        adm("-m target -o unbind -t 1 -I 11.0.0.0/8"),
        adm("-m target -o unbind -t 1 -Q iqn.nobody"),
        adm("-m target -o unbind -t 1 -I 10.0.0.0/8"),
        adm("-m target -o unbind -t 1 -I [2001:db8::]/32"),
        adm("-m target -o unbind -t 1 -Q iqn.2001-04.com.example:initiator"),
        adm("-m target -o bind -t 1 -I 1.2.3.4 -Q iqn.both"),
        adm("-m target -o show").differs(By::Daemon, 0, &["        1.2.3.4\n        iqn.both\n"], TWO_RULES),
        adm("-m target -o unbind -t 1 -I 1.2.3.4 -Q iqn.both"),
        adm("-m target -o bind -t 1 -H 3"),
        adm("-m target -o bind -t 7 -H 3"),
        adm("-m target -o bind -t 9 -H 4"),
        adm("-m target -o unbind -t 1 -H 4"),
        adm("-m target -o unbind -t 1 -H 3"),
        adm("-m target -o show"),
    ]
}

fn portals_and_drivers() -> Vec<Step> {
    vec![
        adm("-m portal -o show"),
        adm("-m portal -o new -P portal=127.0.0.1:$Q"),
        adm("-m portal -o new --param portal=127.0.0.1:$Q"),
        adm("-m pt -o show"),
        adm("-m portal -o new -P zork"),
        adm("-m portal -o new -P portal=[::1:3260"),
        adm("-m portal -o delete -P portal=127.0.0.2:$Q"),
        adm("-m portal -o delete -P portal=127.0.0.1:$Q"),
        adm("-m portal -o show"),
        adm("-m lld -o stop"),
    ]
}

fn sessions() -> Vec<Step> {
    let none = vec![
        adm("-m session -o show"),
        adm("-m session -o show -t 1 -s 1"),
        adm("-m session -o stat -s 77"),
        adm("-m conn -o show -t 1"),
        adm("-m conn -o show -t 9"),
        adm("-m conn -o show"),
        adm("-m conn -o stat -s 77 -c 0"),
        adm("-m conn -o delete -t 1 -s 77 -c 0"),
        adm("-m conn -o delete -t 9 -s 77 -c 0"),
        adm("-m conn -o new -t 1 -s 77 -c 0"),
    ];
    let login =
        "-i iqn.2001-04.com.example:initiator -m 1 -t 600 iscsi://127.0.0.1:$P/iqn.2001-04.com.example:one/1";
    let one = vec![
        adm("-m target -o update -t 1 -n nop_interval -v 0").quiet(),
        step(What::Login, login).quiet(),
        adm("-m conn -o show -t 1").waits(),
        adm("-m target -o show"),
        adm("-m target -o delete -t 1"),
        adm("-m lu -o update -t 1 -l 2 -P online=0"),
        step(What::Logout, "").quiet(),
        adm("-m conn -o show -t 1").waits_for_none(),
    ];
    [none, one].concat()
}

fn clean_up() -> Vec<Step> {
    vec![
        adm("-m target -o delete --force -t 1"),
        adm("-m target -o delete -t 7"),
        adm("-m target -o delete -t 3").quiet(),
        adm("-m target -o show"),
        adm("-m account -o delete -u dave"),
        adm("-m account -o show"),
    ]
}

/// At the very end: a stock tgtd whose driver is started again hangs a second later.
fn stop_driver() -> Vec<Step> {
    vec![
        adm("-m lld -o stop"),
        adm("-L iscsi -m target -o show"),
        adm("-m lld -o show").differs(By::Daemon, 0, &["iscsi: stopped"], LISTS),
    ]
}

const CONF: &str = "
default-driver iscsi
# one plain target
<target iqn.2001-04.com.example:zulu>
    backing-store $D/d2
    backing-store $D/d1   # sorts before d2
    incominguser u1 p1
    outgoinguser u3 p3
    initiator-address 10.0.0.0/8
    initiator-name iqn.2001-04.com.example:initiator
    MaxBurstLength = 4096
    HeaderDigest CRC32C
    state offline
    write-cache off
    vendor_id \"My Vendor\"
</target>
<target iqn.2001-04.com.example:alpha>
    <backing-store $D/d3>
        lun 5
        block-size 4096
    </backing-store>
    controller_tid 77
</target>
include more-*.conf
";

const UNSAFE_ACL: &str =
    "a target with initiator-name alone admits these names alone; tgt-admin opens it to ALL";
const MISSING: &str =
    "a backing store that is not there is an error; tgt-admin leaves the unit out and is content";
const UNKNOWN: &str = "a directive that does not exist is an error with file and line; tgt-admin ignores it";
const DIFF: &str = "--update changes what differs; tgt-admin removes targets and makes them again";
const DUMP: &str = "--dump keeps everything, passwords as well";
const SAYS_WHY: &str = "tgt-admin says why the daemon refused, where the daemon says so";
const OPTION: &str = "an unknown option ends tgt-admin";
const HELP: &str = "--help says what is not as it was";

fn admin_execute() -> Vec<Step> {
    vec![
        write("targets.conf", CONF),
        admin("-e -p -c targets.conf"),
        admin("-e -c targets.conf"),
        admin("-s"),
        admin("--show"),
        admin("-e -v -c targets.conf"),
        admin("--offline ALL -p").sorted(),
        admin("--ready iqn.2001-04.com.example:zulu -v"),
        admin("--offline tid=77"),
        admin("--offline iqn.nosuch"),
        admin("--offline tid=9 -v").differs(By::Both, 22, &["tgtadm: no target with tid 9"], SAYS_WHY),
        admin("-s"),
        admin("--ready ALL"),
        admin("--dump")
            .differs(By::Both, 0, &["u1 p1", "controller_tid 77", "MaxBurstLength \"4096\""], DUMP)
            .differs(By::Tool, 0, &["PLEASE_CORRECT_THE_PASSWORD", "controller_tid 77"], DUMP)
            .sorted(),
        admin("--delete iqn.nosuch -v"),
        admin("--delete tid=9 -v"),
        admin("--delete tid=77 -v"),
        admin("-s"),
        admin("--delete ALL -p"),
        admin("--delete ALL"),
        admin("-s"),
    ]
}

fn admin_rest() -> Vec<Step> {
    let names = "<target iqn.names>\n backing-store $D/d1\n initiator-name iqn.i\n</target>\n";
    let missing = "<target iqn.missing>\n backing-store $D/nosuch\n</target>\n";
    let unknown = "<target iqn.unknown>\n zork 1\n</target>\n";
    let plain = "<target iqn.plain>\n backing-store $D/d1\n</target>\n";
    let more = "<target iqn.plain>\n backing-store $D/d1\n backing-store $D/d2\n</target>\n";
    vec![
        write("names.conf", names),
        admin("-e -c names.conf"),
        admin("-s").differs(By::Tool, 0, &["ACL information:\n        iqn.i\n"], UNSAFE_ACL),
        admin("--delete ALL"),
        write("missing.conf", missing),
        admin("-e -c missing.conf").differs(
            By::Tool,
            1,
            &["missing.conf:2: $D/nosuch: No such file"],
            MISSING,
        ),
        admin("--delete ALL").quiet(),
        write("unknown.conf", unknown),
        admin("-e -c unknown.conf").differs(
            By::Tool,
            22,
            &["unknown.conf:2: zork is no option here"],
            UNKNOWN,
        ),
        admin("--delete ALL").quiet(),
        write("plain.conf", plain),
        admin("-e -c plain.conf"),
        write("plain.conf", more),
        admin("--update iqn.plain -c plain.conf -v")
            .differs(By::Both, 0, &["--lun 2 -b \"$D/d2\""], DIFF)
            .differs(By::Tool, 0, &["Removing target", "--lun 2 -b \"$D/d2\""], DIFF),
        admin("-s"),
        admin("--update ALL -c plain.conf"),
        admin("--update tid=99 -c plain.conf"),
        admin("--delete ALL"),
        admin("-e -c nosuch.conf"),
        admin("--zork").differs(By::Tool, 1, &["Unknown option: zork"], OPTION),
        admin("-v"),
        admin("--delete help"),
        admin("--offline help"),
        admin("--ready help"),
        admin("--update help").differs(By::Tool, 0, &["Only what differs is changed"], HELP),
        admin("-h").differs(By::Tool, 0, &["passwords in it"], HELP),
    ]
}

const IMAGES: &str = "tgtimg makes disks alone, overwrites nothing, and takes no size for another one";

fn images() -> Vec<Step> {
    vec![
        img("--op zork"),
        img("-Y zork"),
        img("foo"),
        img(""),
        img("--op new"),
        img("--op new -Y disk -f img"),
        img("--op new -Y disk -t zork -f img"),
        img("--op new -Y disk -t disk -f img"),
        img("--op new -Y disk -t disk -f img -s 0"),
        img("--op new -Y disk -t disk -f /nosuch/img -s 1"),
        img("--op new -Y disk -t disk -f img -s 1"),
        img("--op new -Y disk -t disk -f thin.img -s 1 --thin-provisioning"),
        img("--op new -Y disk -t disk -f img -s 1").differs(By::Tool, 2, &["File exists"], IMAGES),
        img("--op new -Y disk -t disk -f big.img -s 1G").differs(
            By::Tool,
            22,
            &["number of megabytes"],
            IMAGES,
        ),
        img("--op new -Y tape -t data -b code -s 1 -f tape.img").differs(
            By::Tool,
            22,
            &["no tape images"],
            IMAGES,
        ),
        img("--op show -Y disk -f img").differs(By::Tool, 0, &["1 MB (1048576 bytes)"], IMAGES),
    ]
}
