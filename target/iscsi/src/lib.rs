//! target/iscsi
