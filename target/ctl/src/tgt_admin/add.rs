//! From a target of the configuration to the steps that make it, in tgt-admin's order.

use target_daemon::config::{Login, StoreConf, TargetConf, Value};
use target_daemon::control::backend::Secret;

use super::devices::DirectStore;
use super::step::{LunOptions, Step, Words};

/// Users that have an account, or will have one when the steps so far are done.
pub(super) type Known = std::collections::BTreeSet<String>;

/// Paths that somebody uses and that are taken by force.
pub(super) type Forced = std::collections::BTreeSet<String>;

/// The steps that make `target` as `tid`.
pub(super) fn add(
    words: &Words,
    target: &TargetConf,
    tid: i32,
    known: &mut Known,
    forced: &Forced,
) -> Vec<Step> {
    let mut steps = vec![
        Step::remark(format!("# Adding target: {}", target.name)),
        words.new_target(tid, &target.name).at(&target.at),
    ];
    // Names in ASCII order, as perl's sort gives them: capitals come first.
    let (protocol, others): (Vec<_>, Vec<_>) =
        target.keys.iter().partition(|(name, _)| name.starts_with(|c: char| c.is_ascii_uppercase()));
    let set = |name: &str, v: &Value| words.target_parameter(tid, name, &v.text).at(&v.at);
    steps.extend(protocol.into_iter().map(|(name, v)| set(name, v)));
    for store in &target.stores {
        steps.extend(unit(words, store, tid, forced.contains(&store.path)));
    }
    for login in &target.incoming {
        steps.extend(account(words, login, Some(tid), false, known));
    }
    let rule = |by_name: bool| move |v: &Value| words.rule(true, by_name, tid, &v.text).at(&v.at);
    steps.extend(target.addresses.iter().map(rule(false)));
    steps.extend(target.names.iter().map(rule(true)));
    let (state, before): (Vec<_>, Vec<_>) = others.into_iter().partition(|(name, _)| *name == "state");
    steps.extend(before.into_iter().map(|(name, v)| set(name, v)));
    if let Some(login) = &target.outgoing {
        steps.extend(account(words, login, Some(tid), true, known));
    }
    steps.extend(state.into_iter().map(|(name, v)| set(name, v)));
    if target.addresses.is_empty() && target.names.is_empty() && !target.closed {
        steps.push(words.rule(true, false, tid, "ALL").at(&target.at));
    }
    steps
}

/// Makes the account where there is none yet, and binds it.
pub(super) fn account(
    words: &Words,
    login: &Login,
    tid: Option<i32>,
    outgoing: bool,
    known: &mut Known,
) -> Vec<Step> {
    let mut steps = Vec::new();
    if known.insert(login.user.clone()) {
        let mut step = words.new_account(&login.user, &Secret(login.password.clone())).at(&login.at);
        if tid.is_none() {
            step.line = step.line.replacen("--lld iscsi ", "", 1);
        }
        steps.push(step);
    }
    steps.push(words.account(true, tid, &login.user, outgoing).at(&login.at));
    steps
}

fn unit(words: &Words, store: &StoreConf, tid: i32, forced: bool) -> Vec<Step> {
    let text = |v: &'_ Option<Value>| v.as_ref().map(|v| v.text.clone());
    let direct = if store.direct { DirectStore::ask(&store.path) } else { DirectStore::default() };
    let lun = store.lun;
    let (device_type, bs_type) = (text(&store.device_type), text(&store.bs_type));
    let (bsopts, bsoflags) = (store.backing_options(forced), text(&store.bsoflags));
    let block_size = text(&store.block_size).or(direct.block_size);
    let options = LunOptions {
        path: (!store.path.is_empty()).then_some(&store.path),
        device_type: device_type.as_deref(),
        bs_type: bs_type.as_deref(),
        bsopts: bsopts.as_deref(),
        bsoflags: bsoflags.as_deref(),
        block_size: block_size.as_deref(),
    };
    let mut make = words.new_lun(tid, lun, &options);
    make.create = store.create.map(|bytes| (store.path.clone(), bytes));
    let mut steps = vec![make];
    steps.extend(
        store.mode_pages.iter().map(|v| words.lun_parameter(tid, lun, "mode_page", &v.text).at(&v.at)),
    );
    let cache = store.write_cache.as_ref().map_or("on", |v| v.text.as_str());
    if cache == "off" {
        steps.push(words.write_cache_off(tid, lun));
    }
    steps.extend(
        store.parameters.iter().map(|(name, v)| words.lun_parameter(tid, lun, name, &v.text).at(&v.at)),
    );
    for (name, value) in &direct.parameters {
        if store.parameter(name).is_none() {
            steps.push(words.lun_parameter(tid, lun, name, value));
        }
    }
    if cache == "on" {
        steps.push(Step::remark(format!("# Write cache is enabled (default) for lun {lun}.")));
    }
    steps.extend(store.raw.iter().map(|v| words.lun_parameters(tid, lun, &v.text).at(&v.at)));
    for step in &mut steps {
        step.at.get_or_insert_with(|| store.at.clone());
    }
    steps
}
