//! target/scsi
