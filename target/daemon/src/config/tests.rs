use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

struct Memory(BTreeMap<PathBuf, Vec<u8>>);

impl Memory {
    fn new(files: &[(&str, &str)]) -> Self {
        Memory(files.iter().map(|(n, t)| (PathBuf::from(n), t.as_bytes().to_vec())).collect())
    }
}

impl Files for Memory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.0.keys().any(|k| k != path && k.starts_with(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let below = self.0.keys().filter_map(|k| k.strip_prefix(dir).ok()?.components().next());
        Ok(below.map(|c| c.as_os_str().to_string_lossy().into_owned()).collect())
    }
}

fn read(text: &str) -> Result<TargetsConf, String> {
    load(Path::new("/c"), &Memory::new(&[("/c", text)])).map(|l| l.conf).map_err(|e| e.to_string())
}

fn error(text: &str) -> String {
    read(text).expect_err(text)
}

#[test]
fn every_form_of_line() {
    let conf = read(
        "# a comment
default-driver = iscsi   # another
/* and
   another */
include /d/none*.conf
<target iqn.a>
    backing-store \\
        /dev/b
    \"\"
</target>",
    );
    assert_eq!(conf.unwrap_err(), "/c:9: \"\" has no value");
    let conf = read(
        "incomingdiscoveryuser \"u p\\#w\"\n<target \"iqn.a\">\nvendor_id \"My Vendor\"\n backing-store=/x /* c */\n</target>\n<target iqn.b/>",
    )
    .unwrap();
    assert_eq!(conf.incoming_discovery[0].password, "p#w");
    let a = &conf.targets["iqn.a"];
    assert_eq!((a.stores[0].path.as_str(), a.stores[0].parameter("vendor_id")), ("/x", Some("My Vendor")));
    assert!(conf.targets["iqn.b"].stores.is_empty());
    let conf = read("account bob a  b\noutgoingdiscoveryuser bob").unwrap();
    assert_eq!(conf.outgoing_discovery.unwrap().password, "a  b");
}

#[test]
fn numbers_follow_tgt_admin() {
    let conf = read(
        "<target iqn.a>
            backing-store /z
            backing-store /a
            direct-store /0
            <backing-store /m>
                lun 2
            </backing-store>
        </target>",
    )
    .unwrap();
    let got: Vec<_> = conf.targets["iqn.a"].stores.iter().map(|s| (s.path.as_str(), s.lun)).collect();
    assert_eq!(got, [("/a", 1), ("/m", 2), ("/z", 3), ("/0", 4)]);
}

#[test]
fn a_unit_inherits_and_overrides() {
    let conf = read(
        "<target iqn.a>
            write-cache off
            scsi_sn all
            mode_page 8:0:1:0
            <backing-store /a>
                write-cache on
                scsi_sn mine
                params removable=1,online=0
                bs-type aio
                block-size 4096
            </backing-store>
            backing-store /b
            MaxBurstLength 4096
            state offline
        </target>",
    )
    .unwrap();
    let t = &conf.targets["iqn.a"];
    let (a, b) = (&t.stores[0], &t.stores[1]);
    assert_eq!((a.parameter("scsi_sn"), b.parameter("scsi_sn")), (Some("mine"), Some("all")));
    assert_eq!(a.write_cache.as_ref().unwrap().text, "on");
    assert_eq!(b.write_cache.as_ref().unwrap().text, "off");
    assert_eq!((a.mode_pages.len(), a.raw.len(), b.raw.len()), (1, 1, 0));
    assert_eq!(a.options(false), "path=/a,bstype=aio,blocksize=4096");
    assert_eq!(a.options(true), "path=/a,bstype=aio,bsopts=allow-in-use,blocksize=4096");
    assert_eq!(t.keys.keys().collect::<Vec<_>>(), ["MaxBurstLength", "state"]);
}

#[test]
fn relative_paths_and_files_to_make() {
    let files = Memory::new(&[(
        "/etc/tgt/c",
        "<target iqn.a>\n<backing-store disk.img>\ncreate 64M\n</backing-store>\n<backing-store x>\nbs-type null\n</backing-store>\n</target>",
    )]);
    let conf = load(Path::new("/etc/tgt/c"), &files).unwrap().conf;
    let stores = &conf.targets["iqn.a"].stores;
    assert_eq!((stores[0].path.as_str(), stores[0].create), ("/etc/tgt/disk.img", Some(64 << 20)));
    assert_eq!((stores[1].path.as_str(), stores[1].create), ("x", None));
}

#[test]
fn includes() {
    let files = Memory::new(&[
        (
            "/etc/tgt/targets.conf",
            "include conf.d/*.conf\ninclude /more\ninclude conf.d/a.conf\ninclude \"/q/x y\"\n",
        ),
        ("/etc/tgt/conf.d/b.conf", "<target iqn.b>\n</target>"),
        ("/etc/tgt/conf.d/a.conf", "<target iqn.a>\nbacking-store /x\n</target>"),
        ("/etc/tgt/conf.d/.hidden.conf", "zork"),
        ("/more/2", "<target iqn.a>\nbacking-store /y\n</target>"),
        ("/more/1", "<target iqn.c>\n</target>"),
        ("/q/x y", "ignore-errors yes"),
    ]);
    let loaded = load(Path::new("/etc/tgt/targets.conf"), &files).unwrap();
    assert_eq!(loaded.conf.targets.keys().collect::<Vec<_>>(), ["iqn.a", "iqn.b", "iqn.c"]);
    assert_eq!(loaded.conf.targets["iqn.a"].stores.len(), 2, "blocks of one name are one");
    assert!(loaded.conf.ignore_errors);
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
}

#[test]
fn errors_name_the_place_and_what_is_right() {
    for (text, wanted) in [
        ("zork 1", "/c:1: zork is no option here"),
        ("defaultdriver iscsi", "/c:1: defaultdriver is no option here; is it default-driver?"),
        ("default-driver iser", "/c:1: default-driver iser: the only driver is iscsi"),
        ("default-driver", "/c:1: default-driver has no value"),
        ("ignore-errors maybe", "/c:1: ignore-errors is yes or no"),
        ("control-port x", "/c:1: control-port x: a number"),
        ("\n\ninclude /nosuch", "/c:3: include /nosuch: "),
        ("include /c", ""),
        ("<target a_b>\n</target>", "/c:1: target \"a_b\": '_' in a target name"),
        ("<target iqn.a>", "/c:1: <target iqn.a> has no end; </target> ends it"),
        ("</target>", "/c:1: </target> ends a block, but none is open"),
        ("<target iqn.a>\n</zork>", "/c:2: </zork> where <target iqn.a> of /c:1 is open"),
        ("<target iqn.a\n", "/c:1: a block begins as in"),
        ("<zork a>\n</zork>", "/c:1: <zork> does not stand here"),
        ("/* x", "/c:1: this comment has no end"),
        ("x <<EOF", "/c:1: x: values of several lines"),
        ("incomingdiscoveryuser a", "/c:1: a has no password; 'user password' is right"),
        ("incomingdiscoveryuser a b c", "/c:1: incomingdiscoveryuser takes a user and a password"),
        ("account a", "/c:1: account takes a user and a password"),
        ("iSNS Maybe", "/c:1: iSNS is On or Off"),
    ] {
        match read(text) {
            Err(e) => assert!(e.starts_with(wanted) && !wanted.is_empty(), "{text}: {e}"),
            Ok(_) => assert!(wanted.is_empty(), "{text}"),
        }
    }
    for (text, wanted) in [
        ("zork 1", "zork is no option here"),
        ("scsi-id 1", "scsi-id is no option here; is it scsi_id?"),
        ("MaxBurstLength 5", "MaxBurstLength=5: no such parameter, or out of its range"),
        ("state zork", "state zork; there are ready and offline"),
        ("state ready\nstate ready", "state stands at /c:2 already"),
        ("controller_tid 0", "controller_tid is above 0"),
        ("lun 0", "lun is from 1 to 16383"),
        ("bs-type sheepdog", "bs-type sheepdog: bstype sheepdog does not exist here"),
        ("device-type tape", "device-type tape does not exist here"),
        ("block-size 1000", "block-size 1000: block size 1000; a power of two"),
        ("mode_page 8:0", "mode_page 8:0: "),
        ("create lots", "create lots: a size as in 512M"),
        ("create 99999999999T", "create 99999999999T: a size"),
        ("online maybe\nremovable", "removable has no value"),
        ("write-cache maybe", "write-cache maybe: write-cache is on or off"),
        ("backing-store /a\nbacking-store /a", "/a stands at /c:2 already"),
        ("backing-store /a\nbacking-store /b\nlun 3", "LUN 3 is that of the unit at /c:2"),
        ("backing-store /a,b", "a path with a comma"),
        ("<backing-store /a>\nzork 1\n</backing-store>", "zork is no option here"),
        ("initiator-address none\ninitiator-name x", "initiator-address none goes with no other"),
        ("initiator-name x\ninitiator-name x", "initiator-name x is there twice"),
        ("driver iser", "driver iser: the only driver"),
        ("bs-type null\nbacking-store /a\nbsoflags sync", "bstype null takes no bsoflags"),
    ] {
        let e = error(&format!("<target iqn.a>\n{text}\n</target>"));
        let (_, message) = e.split_once(": ").unwrap();
        assert!(message.starts_with(wanted), "{text}: {e}");
    }
    let e = error("<target iqn.a>\ncontroller_tid 3\n</target>\n<target iqn.b>\ncontroller_tid 3\n</target>");
    assert_eq!(e, "/c:4: controller_tid is that of iqn.a (/c:1)");
}

#[test]
fn include_loops_and_depth_end() {
    let files = Memory::new(&[("/c", "include /d\n"), ("/d", "include /c\nignore-errors yes")]);
    let loaded = load(Path::new("/c"), &files).unwrap();
    assert!(loaded.conf.ignore_errors && loaded.warnings.len() == 1);
    let chain: Vec<(String, String)> =
        (0..30).map(|n| (format!("/{n}"), format!("include /{}", n + 1))).collect();
    let chain: Vec<_> = chain.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let e = load(Path::new("/0"), &Memory::new(&chain)).unwrap_err().to_string();
    assert!(e.contains("nested more than"), "{e}");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let files = Memory(BTreeMap::from([(PathBuf::from("/c"), bytes)]));
        let _ = load(Path::new("/c"), &files);
    }

    #[test]
    fn any_lines_are_read_or_refused(lines in proptest::collection::vec(
        "(</?(target|backing-store)( iqn.a| /x)?/?>)|((lun|write-cache|params|bs-type|include|state|zork)[ =](on|1|aio|/c|ready|[*?{\\[\\\\]{0,4}))|(#?/\\*)|(\\*/)|[ a-z\\\\]{0,5}|(backing-store /[ab])",
        0..30,
    )) {
        if let Err(e) = load(Path::new("/c"), &Memory::new(&[("/c", &lines.join("\n"))])) {
            prop_assert!(e.at.line >= 1 && e.at.line <= lines.len().max(1));
        }
    }
}
