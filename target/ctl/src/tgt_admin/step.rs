//! Steps of a plan: a management request, and the tgtadm command line that stands for it.

use target_daemon::config::At;
use target_daemon::control::backend::Secret;
use target_daemon::mgmt::{Mode, Op, Request, TID_ALL};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// What --verbose and --pretend print: a command, a remark that begins with `#`, or nothing.
    pub line: String,
    /// What is sent; a remark sends nothing.
    pub request: Option<Request>,
    /// Where the configuration asks for it.
    pub at: Option<At>,
    /// A file to make first, where it is not there: its path and bytes.
    pub create: Option<(String, u64)>,
}

impl Step {
    pub fn remark(text: impl Into<String>) -> Self {
        Step { line: text.into(), request: None, at: None, create: None }
    }

    pub fn at(mut self, at: &At) -> Self {
        self.at = Some(at.clone());
        self
    }
}

/// Makes steps in tgt-admin's words.
#[derive(Clone, Debug)]
pub(super) struct Words {
    pub control_port: String,
}

impl Words {
    fn step(&self, words: &str, mode: Mode, op: Op, payload: &str) -> Step {
        let mut request = Request::new(mode, op);
        request.payload = payload.to_owned();
        if words.starts_with("--lld iscsi ") {
            request.lld = "iscsi".to_owned();
        }
        Step {
            line: format!("tgtadm -C {} {words}", self.control_port),
            request: Some(request),
            at: None,
            create: None,
        }
    }

    fn on_target(&self, words: &str, mode: Mode, op: Op, tid: i32, payload: &str) -> Step {
        let mut step = self.step(words, mode, op, payload);
        step.request.iter_mut().for_each(|r| r.tid = tid);
        step
    }

    pub fn new_target(&self, tid: i32, name: &str) -> Step {
        let words = format!("--lld iscsi --op new --mode target --tid {tid} -T {name}");
        self.on_target(&words, Mode::Target, Op::New, tid, &format!("targetname={name}"))
    }

    /// Sessions are dropped where `force` is set.
    pub fn delete_target(&self, tid: i32, force: bool) -> Step {
        let words = format!("--mode target --op delete {}--tid={tid}", if force { "--force " } else { "" });
        let mut step = self.on_target(&words, Mode::Target, Op::Delete, tid, "");
        step.request.iter_mut().for_each(|r| r.force = force);
        step
    }

    pub fn target_parameter(&self, tid: i32, name: &str, value: &str) -> Step {
        let words =
            format!("--lld iscsi --mode target --op update --tid {tid} --name {name} --value {value}");
        self.on_target(&words, Mode::Target, Op::Update, tid, &format!("{name}={value}"))
    }

    pub fn target_state(&self, tid: i32, name: Option<&str>, state: &str) -> Step {
        let name = name.map_or(String::new(), |n| format!(" --name=\"{n}\""));
        let words = format!("--op update --mode target --tid={tid}{name} -n state -v {state}");
        self.on_target(&words, Mode::Target, Op::Update, tid, &format!("state={state}"))
    }

    /// `bind` or unbind an address rule, or (`by_name`) a name rule.
    pub fn rule(&self, bind: bool, by_name: bool, tid: i32, rule: &str) -> Step {
        let (op, code) = if bind { ("bind", Op::Bind) } else { ("unbind", Op::Unbind) };
        let (option, key) = if by_name { ("-Q", "initiator-name") } else { ("-I", "initiator-address") };
        let words = format!("--lld iscsi --op {op} --mode target --tid {tid} {option} {rule}");
        self.on_target(&words, Mode::Target, code, tid, &format!("{key}={rule}"))
    }

    pub fn new_account(&self, user: &str, password: &Secret) -> Step {
        let words = format!("--lld iscsi --mode account --op new --user={user} --password={}", password.0);
        self.step(&words, Mode::Account, Op::New, &format!("user={user},password={}", password.0))
    }

    pub fn delete_account(&self, user: &str) -> Step {
        let words = format!("--lld iscsi --mode account --op delete --user={user}");
        self.step(&words, Mode::Account, Op::Delete, &format!("user={user}"))
    }

    /// `tid` None: for discovery.
    pub fn account(&self, bind: bool, tid: Option<i32>, user: &str, outgoing: bool) -> Step {
        let (op, code) = if bind { ("bind", Op::Bind) } else { ("unbind", Op::Unbind) };
        let words = match tid {
            Some(tid) => {
                let outgoing = if outgoing { " --outgoing" } else { "" };
                format!("--lld iscsi --mode account --op {op} --tid={tid} --user={user}{outgoing}")
            }
            None => {
                let outgoing = if outgoing { " --outgoing" } else { "" };
                format!("--mode account --op {op} --user={user} {outgoing}")
            }
        };
        let mut step =
            self.on_target(&words, Mode::Account, code, tid.unwrap_or(TID_ALL), &format!("user={user}"));
        step.request.iter_mut().for_each(|r| r.outgoing = outgoing);
        step
    }

    pub fn system(&self, name: &str, value: &str) -> Step {
        let words = format!("--op update --mode sys --name {name} -v {value}");
        self.step(&words, Mode::System, Op::Update, &format!("{name}={value}"))
    }

    pub fn portal(&self, new: bool, portal: &str) -> Step {
        let (op, code) = if new { ("new", Op::New) } else { ("delete", Op::Delete) };
        let words = format!("--lld iscsi --mode portal --op {op} --params portal={portal}");
        self.step(&words, Mode::Portal, code, &format!("portalOps portal={portal},"))
    }

    pub fn new_lun(&self, tid: i32, lun: u64, options: &LunOptions<'_>) -> Step {
        let LunOptions { path, device_type, bs_type, bsopts, bsoflags, block_size } = options;
        let option =
            |name: &str, value: &Option<&str>| value.map_or(String::new(), |v| format!("--{name} {v}"));
        let medium = path.map_or(String::new(), |p| format!(" -b \"{p}\""));
        let words = format!(
            "--lld iscsi --op new --mode logicalunit --tid {tid} --lun {lun}{medium} {} {} {} {} {}",
            option("device-type", device_type),
            option("bstype", bs_type),
            option("bsopts", bsopts),
            option("bsoflags", bsoflags),
            option("blocksize", block_size),
        );
        let pairs = [
            ("path", path),
            ("bstype", bs_type),
            ("bsopts", bsopts),
            ("bsoflags", bsoflags),
            ("blocksize", block_size),
        ];
        let payload: Vec<_> = pairs.iter().filter_map(|(k, v)| Some(format!("{k}={}", (**v)?))).collect();
        let mut step = self.on_target(&words, Mode::Device, Op::New, tid, &payload.join(","));
        step.request.iter_mut().for_each(|r| r.lun = lun);
        step
    }

    pub fn delete_lun(&self, tid: i32, lun: u64) -> Step {
        let words = format!("--lld iscsi --op delete --mode logicalunit --tid {tid} --lun={lun}");
        let mut step = self.on_target(&words, Mode::Device, Op::Delete, tid, "");
        step.request.iter_mut().for_each(|r| r.lun = lun);
        step
    }

    /// `shown` is the parameter as tgt-admin quotes it.
    fn update_lun(&self, tid: i32, lun: u64, shown: &str, parameter: &str) -> Step {
        let words =
            format!("--lld iscsi --op update --mode logicalunit --tid {tid} --lun={lun} --params {shown}");
        let payload = format!("targetOps {parameter},");
        let mut step = self.on_target(&words, Mode::Device, Op::Update, tid, &payload);
        step.request.iter_mut().for_each(|r| r.lun = lun);
        step
    }

    pub fn lun_parameter(&self, tid: i32, lun: u64, name: &str, value: &str) -> Step {
        self.update_lun(tid, lun, &format!("{name}=\"{value}\""), &format!("{name}={value}"))
    }

    /// Several at once, as `params` gives them.
    pub fn lun_parameters(&self, tid: i32, lun: u64, text: &str) -> Step {
        self.update_lun(tid, lun, &format!("\"{text}\""), text)
    }

    /// tgt-admin's way to switch the write cache off.
    pub fn write_cache_off(&self, tid: i32, lun: u64) -> Step {
        let page = "mode_page=8:0:18:0x10:0:0xff:0xff:0:0:0xff:0xff:0xff:0xff:0x80:0x14:0:0:0:0:0:0";
        self.update_lun(tid, lun, page, page)
    }
}

/// What makes a unit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LunOptions<'a> {
    pub path: Option<&'a str>,
    pub device_type: Option<&'a str>,
    pub bs_type: Option<&'a str>,
    pub bsopts: Option<&'a str>,
    pub bsoflags: Option<&'a str>,
    pub block_size: Option<&'a str>,
}
