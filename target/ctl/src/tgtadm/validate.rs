//! Which options go with which mode and operation, and which must be there: tgt's checks in tgt's order.

use target_daemon::mgmt::{Mode, Op, device_type};

use super::options::{EXTENDED, JSON, Options, ROOT, Stop};

/// The mode and operation, where the options fit them.
pub(super) fn check(options: &mut Options) -> Result<(Mode, Op), Stop> {
    let Some((op, name)) = options.op.clone() else {
        return Err(Stop::complaint("specify the operation type"));
    };
    let Some(mode) = options.mode else { return Err(Stop::complaint("specify the mode")) };
    match mode {
        Mode::System => system(options, op, &name)?,
        Mode::Target => target(options, op, &name)?,
        Mode::Account => account(options, op, &name)?,
        Mode::Device => logical_unit(options, op, &name)?,
        Mode::Portal => portal(options, op, &name)?,
        Mode::Lld => driver(options, op)?,
        Mode::Session | Mode::Connection | Mode::Plinth => {}
    }
    Ok((mode, op))
}

/// The first option that is not among `allowed`. Options of Plinth's own go with everything here; what they can be
/// combined with is checked later.
fn stranger(options: &Options, allowed: &str) -> Option<char> {
    let known = |c: char| allowed.contains(c) || matches!(c, 'd' | JSON | EXTENDED | ROOT);
    options.given.iter().copied().find(|c| !known(*c))
}

fn only(options: &Options, mode: &str, allowed: &str) -> Result<(), Stop> {
    match stranger(options, allowed) {
        Some(c) => Err(Stop::complaint(format!("{mode} mode: option '-{c}' is not allowed/supported"))),
        None => Ok(()),
    }
}

/// tgt says this in other words in two places.
fn only_in(options: &Options, mode: &str, allowed: &str) -> Result<(), Stop> {
    match stranger(options, allowed) {
        Some(c) => Err(Stop::complaint(format!("option '-{c}' not supported in {mode} mode"))),
        None => Ok(()),
    }
}

fn unsupported(op: &str, mode: &str) -> Stop {
    Stop::complaint(format!("operation {op} not supported in {mode} mode"))
}

fn need_name_and_value(options: &Options) -> Result<(), Stop> {
    if options.word('n').is_none() || options.word('v').is_none() {
        return Err(Stop::complaint("update operation requires 'name' and 'value' options"));
    }
    Ok(())
}

fn system(options: &Options, op: Op, name: &str) -> Result<(), Stop> {
    match op {
        Op::Update => {
            only(options, "system", "LmonvC")?;
            need_name_and_value(options)
        }
        Op::Show | Op::Delete | Op::Stats => Ok(()),
        _ => Err(unsupported(name, "system")),
    }
}

fn target(options: &Options, op: Op, name: &str) -> Result<(), Stop> {
    if options.tid == 0 && op != Op::Show {
        return Err(Stop::complaint("'tid' cannot be 0"));
    }
    if options.tid < 0 && op != Op::Show {
        return Err(Stop::complaint("'tid' option is necessary"));
    }
    let mode = "target";
    match op {
        Op::New => {
            only(options, mode, "LmotTC")?;
            if options.word('T').is_none() {
                return Err(Stop::complaint("creating new target requires a name, use --targetname"));
            }
            Ok(())
        }
        Op::Delete => only(options, mode, "LmotCF"),
        Op::Show | Op::Stats => only(options, mode, "LmotC"),
        Op::Bind | Op::Unbind => {
            only(options, mode, "LmotIQBHC")?;
            if options.word('I').is_none() && options.word('Q').is_none() && options.host_no == 0 {
                let text = format!("{name} operation requires initiator-address, initiator-nameor bus");
                return Err(Stop::complaint(text));
            }
            Ok(())
        }
        Op::Update => {
            only(options, mode, "LmotnvC")?;
            need_name_and_value(options)
        }
        _ => Err(unsupported(name, mode)),
    }
}

fn account(options: &Options, op: Op, name: &str) -> Result<(), Stop> {
    let mode = "account";
    match op {
        Op::New => {
            only(options, mode, "LmoupfC")?;
            if options.word('u').is_none() || options.word('p').is_none() {
                return Err(Stop::complaint("'user' and 'password' options are required"));
            }
            Ok(())
        }
        Op::Show => only(options, mode, "LmoC"),
        Op::Delete => only(options, mode, "LmouC"),
        Op::Bind | Op::Unbind => {
            only(options, mode, "LmotuOC")?;
            if options.word('u').is_none() {
                return Err(Stop::complaint("'user' option is necessary"));
            }
            Ok(())
        }
        _ => Err(unsupported(name, mode)),
    }
}

fn logical_unit(options: &Options, op: Op, name: &str) -> Result<(), Stop> {
    let mode = "logicalunit";
    if options.tid == 0 {
        return Err(Stop::complaint("'tid' must not be 0"));
    }
    if options.tid < 0 {
        return Err(Stop::complaint("'tid' option is necessary"));
    }
    if options.lun == u64::MAX {
        return Err(Stop::complaint("'lun' option is necessary"));
    }
    match op {
        Op::New => {
            only(options, mode, "LmofytlbEYCS")?;
            let medium_later =
                matches!(options.device_type, device_type::CD | device_type::TAPE | device_type::DISK);
            if options.word('b').is_none() && !medium_later {
                return Err(Stop::complaint("'backing-store' option is necessary"));
            }
            Ok(())
        }
        Op::Delete | Op::Stats => only(options, mode, "LmotlC"),
        Op::Update => only_in(options, mode, "LmofytlPC"),
        _ => Err(unsupported(name, mode)),
    }
}

fn portal(options: &Options, op: Op, name: &str) -> Result<(), Stop> {
    match op {
        Op::New | Op::Delete => {
            only(options, "portal", "LmoCP")?;
            if options.portal_params.is_none() {
                return Err(Stop::complaint("you must specify --param portal=<portal>"));
            }
            Ok(())
        }
        Op::Show => only_in(options, "portal", "LmoC"),
        _ => Err(unsupported(name, "portal")),
    }
}

fn driver(options: &Options, op: Op) -> Result<(), Stop> {
    match op {
        Op::Start | Op::Stop | Op::Show => only(options, "lld", "LmoC"),
        _ => Err(Stop::complaint(format!("option {} not supported in lld mode", op.to_wire()))),
    }
}
