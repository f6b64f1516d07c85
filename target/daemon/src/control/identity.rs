//! Identities of logical units: unique in the world and stable, without the administrator giving any.
//!
//! tgt makes serials from target id and LUN alone (`beaf11` for 1/1, and `beaf111` for both 1/11 and 11/1), the same on every
//! host, so that multipath takes different disks for one. Here a serial is a digest of the daemon's instance id (random,
//! made once), the target's name, the LUN and the path. It comes back when the same configuration is loaded again by the
//! same installation, and `--persist` and `tgt-admin --dump` keep it where it would not.

use sha2::{Digest, Sha256};

use super::backend::LunSpec;

/// The T10 vendor that tgt uses in designators.
const VENDOR: &str = "IET     ";

fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        // Length first: ("ab", "c") and ("a", "bc") differ.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn hex16(parts: &[&[u8]]) -> String {
    digest(parts).iter().take(8).map(|b| format!("{b:02x}")).collect()
}

/// Fills in what the administrator did not give: serial number, SCSI id, and what NAA designators are made from.
pub(super) fn complete(spec: &mut LunSpec, instance: &[u8; 16], target: &str) {
    if !spec.scsi_sn_given && spec.scsi_sn.is_empty() {
        let path = spec.path.as_deref().unwrap_or_default();
        spec.scsi_sn =
            hex16(&[b"serial", instance, target.as_bytes(), &spec.lun.to_be_bytes(), path.as_bytes()]);
    }
    if !spec.scsi_id_given {
        // Follows the serial: two paths to one disk that were given one serial are one disk by every designator.
        let id = if spec.scsi_sn_given {
            hex16(&[b"id", spec.scsi_sn.as_bytes()])
        } else {
            spec.scsi_sn.chars().take(16).collect()
        };
        spec.scsi_id = format!("{VENDOR}{id}");
    }
    let mut identity = [0; 16];
    let naa = digest(&[b"naa", spec.scsi_id.as_bytes()]);
    identity.iter_mut().zip(naa).for_each(|(to, from)| *to = from);
    spec.identity = identity;
}
