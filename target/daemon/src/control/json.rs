//! What `--op show --json` and `--op stat --json` print.

use serde_json::{Value, json};

use super::backend::{Backend, DeviceType, IoStats, LunSpec, NexusStats, SessionView};
use super::error::{Refusal, TgtError};
use super::show::flags_text;
use super::{Bindings, Control, Lun, Target, stat};
use crate::mgmt::{Request, Response, TID_ALL};

impl Control {
    /// `what` is mode and op, as in `target show`.
    pub(super) fn json(&self, what: &str, request: &Request, backend: &dyn Backend) -> Response {
        let one = || self.target(request.tid);
        let chosen = || -> Result<Vec<&Target>, Refusal> {
            if request.tid == TID_ALL { Ok(self.targets.values().collect()) } else { Ok(vec![one()?]) }
        };
        let value = match what {
            "system show" => self.json_system(),
            "target show" => chosen()?.into_iter().map(|t| show_target(t, backend)).collect(),
            "system stat" => self.targets.values().flat_map(|t| stat_target(t, backend)).collect(),
            "target stat" => chosen()?.into_iter().flat_map(|t| stat_target(t, backend)).collect(),
            "lu stat" => {
                self.lun_handle(request.tid, request.lun)?;
                stat_target(one()?, backend).filter(|s| s["lun"] == request.lun).collect()
            }
            "portal show" => {
                let portal = |p: &super::Portal| json!({ "address": p.address.to_string(), "tag": p.tag });
                self.portals.iter().map(portal).collect()
            }
            "account show" => self.accounts.iter().map(|a| Value::from(a.user.as_str())).collect(),
            "connection show" => backend.sessions(one()?.tid).iter().map(session).collect(),
            "session stat" | "connection stat" => {
                let all = self.targets.values().flat_map(|t| backend.sessions(t.tid));
                let found: Vec<_> = all.filter(|s| s.sid == request.sid).map(|s| session(&s)).collect();
                found.into_iter().next().ok_or(TgtError::NoSession)?
            }
            _ => return Err(Refusal::invalid(format!("--json does not go with {what}"))),
        };
        serde_json::to_string_pretty(&value)
            .map(|text| text + "\n")
            .map_err(|e| Refusal::new(TgtError::Unknown, e.to_string()))
    }

    fn json_system(&self) -> Value {
        json!({
            "state": if self.system.online { "ready" } else { "offline" },
            "debug": self.system.debug,
            "driver": if self.system.driver_ready { "ready" } else { "stopped" },
            "targets": self.targets.len(),
            "backing_stores": ["null", "rdwr", "aio"],
            "device_types": ["disk", "controller"],
            "discovery": bindings(&self.discovery),
        })
    }
}

fn bindings(b: &Bindings) -> Value {
    json!({ "incoming": b.incoming, "outgoing": b.outgoing })
}

fn session(s: &SessionView) -> Value {
    let connection = |c: &super::backend::ConnectionView| {
        json!({
            "cid": c.cid,
            "address": super::targets::address_text(c.address),
            "rx_bytes": c.stats.rx_bytes,
            "tx_bytes": c.stats.tx_bytes,
            "data_out_pdus": c.stats.data_out_pdus,
            "data_in_pdus": c.stats.data_in_pdus,
            "command_pdus": c.stats.command_pdus,
            "response_pdus": c.stats.response_pdus,
        })
    };
    json!({
        "sid": s.sid,
        "initiator": s.initiator,
        "alias": s.alias,
        "connections": s.connections.iter().map(connection).collect::<Value>(),
        "negotiated": s.negotiated.iter().map(|(k, v)| ((*k).to_owned(), Value::from(v.as_str())))
            .collect::<serde_json::Map<_, _>>(),
    })
}

fn show_target(t: &Target, backend: &dyn Backend) -> Value {
    let redirect = (!t.redirect.address.is_empty()).then(|| {
        json!({ "address": t.redirect.address, "port": t.redirect.port, "permanent": t.redirect.permanent })
    });
    let given: serde_json::Map<_, _> = t.params.iter().map(|(k, v)| (k.to_owned(), Value::from(v))).collect();
    json!({
        "tid": t.tid,
        "name": t.name,
        "driver": super::DRIVER,
        "state": if t.ready { "ready" } else { "offline" },
        "nop_interval": t.params.nop_interval,
        "nop_count": t.params.nop_count,
        "parameters": given,
        "redirect": redirect,
        "accounts": bindings(&t.bindings),
        "initiator_addresses": t.acl.addresses().collect::<Vec<_>>(),
        "initiator_names": t.acl.names().collect::<Vec<_>>(),
        "sessions": backend.sessions(t.tid).iter().rev().map(session).collect::<Value>(),
        "luns": t.luns.values().map(|l| lun(l, backend)).collect::<Value>(),
    })
}

fn lun(lun: &Lun, backend: &dyn Backend) -> Value {
    let LunSpec { device_type, path, store, flags, limits, .. } = &lun.spec;
    let info = backend.lun_info(lun.handle);
    json!({
        "lun": lun.spec.lun,
        "type": match device_type { DeviceType::Disk => "disk", DeviceType::Controller => "controller" },
        "scsi_id": lun.spec.scsi_id,
        "scsi_sn": lun.spec.scsi_sn,
        "size": info.size,
        "block_size": lun.spec.block_size,
        "online": info.online,
        "removable": lun.spec.removable,
        "prevent_removal": info.prevent_removal,
        "readonly": info.readonly,
        "swp": info.swp,
        "thin_provisioning": lun.spec.thin_provisioning,
        "bstype": store.name(),
        "path": path,
        "bsoflags": flags_text(*flags),
        "iops_limit": limits.iops,
        "bps_limit": limits.bytes_per_second,
        "missing": lun.missing,
    })
}

fn stat_target<'a>(t: &'a Target, backend: &'a dyn Backend) -> impl Iterator<Item = Value> + 'a {
    t.luns.iter().map(move |(number, lun)| {
        let nexuses = backend.lun_stats(lun.handle);
        let mut all = NexusStats::default();
        for n in &nexuses {
            stat::add(&mut all.read, &n.read);
            stat::add(&mut all.write, &n.write);
            all.errors += n.errors;
        }
        let initiators: Value = nexuses
            .iter()
            .map(|n| {
                json!({ "sid": n.sid, "initiator": n.initiator, "read": io(&n.read), "write": io(&n.write),
                    "errors": n.errors })
            })
            .collect();
        json!({
            "tid": t.tid,
            "lun": number,
            "iops_limit": lun.spec.limits.iops,
            "bps_limit": lun.spec.limits.bytes_per_second,
            "read": io(&all.read),
            "write": io(&all.write),
            "errors": all.errors,
            "initiators": initiators,
        })
    })
}

fn io(s: &IoStats) -> Value {
    let bucket = |(upper, n): (u64, u64)| json!({ "below_us": if upper == u64::MAX { Value::Null } else { upper.into() }, "count": n });
    json!({
        "submitted": s.submitted,
        "submitted_bytes": s.submitted_bytes,
        "done": s.done,
        "done_bytes": s.done_bytes,
        "iops": s.per_second,
        "bytes_per_second": s.bytes_per_second,
        "latency_sum_ns": s.latency.sum_ns(),
        "latency": s.latency.buckets().filter(|(_, n)| *n > 0).map(bucket).collect::<Value>(),
    })
}
