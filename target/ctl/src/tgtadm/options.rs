//! tgtadm's options.

use target_daemon::control::number::{accumulate, radix};
use target_daemon::mgmt::{Mode, Op, TID_ALL, device_type};

use super::{EINVAL, help};
use crate::getopt::{Grammar, Item, Long, Takes, parse};
use crate::{Terminal, version_text};

/// `--json`
pub(super) const JSON: char = '\u{1}';
/// `--extended`
pub(super) const EXTENDED: char = '\u{2}';
/// `--root`
pub(super) const ROOT: char = '\u{3}';

const fn long(name: &'static str, code: char) -> Long {
    Long { name, takes: Takes::Argument, code }
}

const fn flag(name: &'static str, code: char) -> Long {
    Long { name, takes: Takes::Nothing, code }
}

/// tgt's short options take an argument for -F and -O, the long ones do not.
pub(super) const GRAMMAR: Grammar = Grammar {
    short: "dhVL:o:m:t:s:c:l:n:v:b:E:f:y:T:I:Q:u:p:H:F:P:B:Y:O:C:S:",
    long: &[
        flag("debug", 'd'),
        flag("help", 'h'),
        flag("version", 'V'),
        long("lld", 'L'),
        long("op", 'o'),
        long("mode", 'm'),
        long("tid", 't'),
        long("sid", 's'),
        long("cid", 'c'),
        long("lun", 'l'),
        long("name", 'n'),
        long("value", 'v'),
        long("backing-store", 'b'),
        long("bstype", 'E'),
        long("bsopts", 'S'),
        long("bsoflags", 'f'),
        long("blocksize", 'y'),
        long("targetname", 'T'),
        long("initiator-address", 'I'),
        long("initiator-name", 'Q'),
        long("user", 'u'),
        long("password", 'p'),
        long("host", 'H'),
        flag("force", 'F'),
        long("params", 'P'),
        long("bus", 'B'),
        long("device-type", 'Y'),
        flag("outgoing", 'O'),
        long("control-port", 'C'),
        flag("json", JSON),
        flag("extended", EXTENDED),
        long("root", ROOT),
    ],
};

/// The command ends before it asks anything.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Prints to standard output; success.
    Text(String),
    /// Prints to standard error.
    Complaint {
        text: String,
        /// Points at --help as well.
        hint: bool,
        code: i32,
    },
}

impl Stop {
    /// `tgtadm: TEXT`, and the usual exit code.
    pub fn complaint(text: impl AsRef<str>) -> Self {
        Stop::Complaint { text: format!("tgtadm: {}", text.as_ref()), hint: false, code: EINVAL }
    }

    fn misuse(text: String) -> Self {
        Stop::Complaint { text, hint: true, code: EINVAL }
    }

    pub fn print(self, terminal: &mut Terminal<'_>) -> i32 {
        match self {
            Stop::Text(text) => {
                terminal.print(&text);
                0
            }
            Stop::Complaint { text, hint, code } => {
                terminal.complain(&format!("{text}\n"));
                if hint {
                    terminal.complain("Try `tgtadm --help' for more information.\n");
                }
                code
            }
        }
    }
}

/// What the options say.
#[derive(Debug)]
pub(super) struct Options {
    pub op: Option<(Op, String)>,
    pub mode: Option<Mode>,
    pub lld: String,
    pub tid: i32,
    pub sid: u64,
    pub cid: u32,
    pub lun: u64,
    pub host_no: u32,
    pub device_type: u32,
    pub outgoing: bool,
    pub force: bool,
    pub control_port: i16,
    pub debug: bool,
    pub json: bool,
    pub extended: bool,
    pub root: Option<String>,
    /// Arguments that go into the payload, by option.
    pub words: Vec<(char, String)>,
    /// `--params` that came before `--mode portal`: tgt takes it for a unit's.
    pub portal_params: Option<String>,
    pub unit_params: Option<String>,
    /// Every option in order.
    pub given: Vec<char>,
}

impl Options {
    pub fn read(args: &[String]) -> Result<Self, Stop> {
        let parsed = parse(args, &GRAMMAR);
        let mut options = Options {
            op: None,
            mode: None,
            lld: String::new(),
            tid: TID_ALL,
            sid: 0,
            cid: 0,
            lun: u64::MAX,
            host_no: 0,
            device_type: device_type::DISK,
            outgoing: false,
            force: false,
            control_port: 0,
            debug: false,
            json: false,
            extended: false,
            root: None,
            words: Vec::new(),
            portal_params: None,
            unit_params: None,
            given: Vec::new(),
        };
        for item in parsed.items {
            match item {
                Item::Bad(message) => return Err(Stop::misuse(message)),
                Item::Option(c, argument) => {
                    options.given.push(c);
                    options.take(c, argument.unwrap_or_default())?;
                }
            }
        }
        if let Some(operand) = parsed.operands.first() {
            return Err(Stop::misuse(format!("tgtadm: unrecognized option '{operand}'")));
        }
        Ok(options)
    }

    fn take(&mut self, c: char, argument: String) -> Result<(), Stop> {
        match c {
            'L' => self.lld = argument,
            'o' => self.op = Some((parse_op(&argument)?, argument)),
            'm' => self.mode = Some(parse_mode(&argument)?),
            't' => self.tid = not_negative(c, &argument)?,
            's' => self.sid = integer(c, &argument)?,
            'c' => self.cid = narrow(c, &argument)?,
            'l' => self.lun = integer(c, &argument)?,
            'H' => self.host_no = narrow(c, &argument)?,
            'C' => self.control_port = not_negative(c, &argument)?,
            'P' if self.mode == Some(Mode::Portal) => self.portal_params = Some(argument),
            'P' => self.unit_params = Some(argument),
            'B' => self.host_no = bus_to_host(&argument)?,
            'Y' => self.device_type = parse_device_type(&argument)?,
            'F' => self.force = true,
            'O' => self.outgoing = true,
            'd' => self.debug = true,
            'V' => return Err(Stop::Text(version_text() + "\n")),
            'h' => return Err(Stop::Text(help::text())),
            JSON => self.json = true,
            EXTENDED => self.extended = true,
            ROOT => self.root = Some(argument),
            _ => {
                self.words.retain(|(other, _)| *other != c);
                self.words.push((c, argument));
            }
        }
        Ok(())
    }

    /// The argument of an option that goes into the payload.
    pub fn word(&self, c: char) -> Option<&str> {
        self.words.iter().find(|(other, _)| *other == c).map(|(_, a)| a.as_str())
    }

    /// The request's payload: tgt's order, joined by commas.
    pub fn payload(&self) -> String {
        let mut parts = Vec::new();
        if let Some(name) = self.word('n') {
            // Where an operation does not need a value, tgt prints the missing one as C does.
            parts.push(format!("{name}={}", self.word('v').unwrap_or("(null)")));
        }
        let tape = self.device_type == device_type::TAPE;
        let keys = [
            ('b', "path"),
            ('E', "bstype"),
            ('S', "bsopts"),
            ('f', "bsoflags"),
            ('y', "blocksize"),
            ('T', "targetname"),
            ('I', "initiator-address"),
            ('Q', "initiator-name"),
            ('u', "user"),
            ('p', "password"),
        ];
        for (c, key) in keys {
            match self.word(c) {
                _ if c == 'E' && tape => parts.push(format!("{key}=ssc")),
                Some(argument) => parts.push(format!("{key}={argument}")),
                None => {}
            }
        }
        if let Some(params) = &self.unit_params {
            parts.push(format!("targetOps {params},"));
        }
        if let Some(params) = &self.portal_params {
            parts.push(format!("portalOps {params},"));
        }
        parts.join(",")
    }
}

fn parse_mode(text: &str) -> Result<Mode, Stop> {
    Ok(match text {
        "system" | "sys" => Mode::System,
        "target" | "tgt" => Mode::Target,
        "logicalunit" | "lu" => Mode::Device,
        "portal" | "pt" => Mode::Portal,
        "session" | "sess" => Mode::Session,
        "connection" | "conn" => Mode::Connection,
        "account" => Mode::Account,
        "lld" => Mode::Lld,
        _ => {
            return Err(Stop::Complaint {
                text: format!("tgtadm: unknown mode: {text}"),
                hint: false,
                code: 1,
            });
        }
    })
}

fn parse_op(text: &str) -> Result<Op, Stop> {
    Ok(match text {
        "new" => Op::New,
        "delete" => Op::Delete,
        "bind" => Op::Bind,
        "unbind" => Op::Unbind,
        "show" => Op::Show,
        "update" => Op::Update,
        "stat" => Op::Stats,
        "start" => Op::Start,
        "stop" => Op::Stop,
        _ => {
            let text = format!("tgtadm: unknown operation: {text}");
            return Err(Stop::Complaint { text, hint: false, code: 1 });
        }
    })
}

fn parse_device_type(text: &str) -> Result<u32, Stop> {
    Ok(match text {
        "disk" => device_type::DISK,
        "tape" | "ssc" => device_type::TAPE,
        "cd" => device_type::CD,
        "changer" => device_type::CHANGER,
        "osd" => device_type::OSD,
        "pt" => device_type::PASS_THROUGH,
        _ => return Err(Stop::complaint(format!("unknown target type: {text}"))),
    })
}

fn invalid(c: char, text: &str) -> Stop {
    Stop::misuse(format!("-{c} argument value '{text}' invalid"))
}

fn out_of_range(c: char, text: &str) -> Stop {
    Stop::misuse(format!("-{c} argument value '{text}' out of range"))
}

/// strtoull with base 0: a sign wraps around, what follows the digits is ignored, the highest number is no number.
fn integer(c: char, text: &str) -> Result<u64, Stop> {
    let trimmed = text.trim_start_matches([' ', '\t', '\n', '\x0b', '\x0c', '\r']);
    let (negative, digits) = match trimmed.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, trimmed.strip_prefix('+').unwrap_or(trimmed)),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(invalid(c, text));
    }
    let (base, digits) = radix(digits);
    let value = accumulate(digits, base).ok_or_else(|| invalid(c, text))?;
    let value = if negative { value.wrapping_neg() } else { value };
    if value == u64::MAX { Err(invalid(c, text)) } else { Ok(value) }
}

/// As [`integer`], in a smaller type.
fn narrow<T: TryFrom<u64>>(c: char, text: &str) -> Result<T, Stop> {
    T::try_from(integer(c, text)?).map_err(|_| out_of_range(c, text))
}

/// As [`narrow`]; negative numbers, which wrapped around, are out of range too.
fn not_negative<T: TryFrom<u64>>(c: char, text: &str) -> Result<T, Stop> {
    narrow(c, text)
}

/// The SCSI host behind `bus,device`, from /sys/bus.
fn bus_to_host(text: &str) -> Result<u32, Stop> {
    let Some((bus, device)) = text.split_once(',') else {
        // tgt goes on with its error number for a host; no host has it.
        return Ok((-EINVAL).cast_unsigned());
    };
    let found = || -> Option<u32> {
        let entries = std::fs::read_dir(format!("/sys/bus/{bus}/devices/{device}")).ok()?;
        let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
        names.filter_map(|n| n.strip_prefix("host")?.parse().ok()).last()
    };
    found().ok_or_else(|| Stop::complaint(format!("can't find bus: {bus}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_strtoull() {
        assert_eq!(integer('l', "0x10"), Ok(16));
        assert_eq!(integer('l', "010"), Ok(8));
        assert_eq!(integer('l', "5x"), Ok(5));
        assert_eq!(integer('l', "18446744073709551614"), Ok(u64::MAX - 1));
        for wrong in ["", "x", "-1", "18446744073709551615", "99999999999999999999"] {
            assert_eq!(integer('l', wrong), Err(invalid('l', wrong)), "{wrong}");
        }
        assert_eq!(not_negative::<i32>('t', "-5"), Err(out_of_range('t', "-5")));
        assert_eq!(not_negative::<i32>('t', "4294967295"), Err(out_of_range('t', "4294967295")));
        assert_eq!(not_negative::<i16>('C', "70000"), Err(out_of_range('C', "70000")));
    }

    #[test]
    fn payloads_as_tgts() {
        let payload = |line: &str| {
            let args: Vec<_> = line.split(' ').map(str::to_owned).collect();
            Options::read(&args).unwrap().payload()
        };
        assert_eq!(
            payload("t -y 4096 -b /x -E aio -f direct"),
            "path=/x,bstype=aio,bsoflags=direct,blocksize=4096"
        );
        assert_eq!(payload("t -m pt -P portal=a"), "portalOps portal=a,");
        assert_eq!(payload("t -P portal=a -m pt"), "targetOps portal=a,");
        assert_eq!(payload("t -n x"), "x=(null)");
        assert_eq!(payload("t -u b -p c -u d"), "user=d,password=c");
        assert_eq!(payload("t -Y tape -E x"), "bstype=ssc");
    }
}
