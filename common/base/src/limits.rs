//! Every limit of a queue, table or message, in one place; relations between them are checked when compiled.

/// Sessions that one target daemon holds at most.
pub const SESSIONS_MAX: usize = 4096;
/// Connections (logged in or not) that one target daemon holds at most.
pub const CONNECTIONS_MAX: usize = 8192;
/// Connections that have not finished their login; more are refused at accept.
pub const CONNECTIONS_UNAUTHENTICATED_MAX: usize = 1024;
/// Seconds that a connection has to finish its login.
pub const LOGIN_SECONDS_MAX: u64 = 15;
/// Connections of one session (RFC 7143 13.2, MaxConnections).
pub const CONNECTIONS_PER_SESSION_MAX: u16 = 8;
/// Non-immediate commands that one session may have in flight (MaxCmdSN - ExpCmdSN + 1).
pub const COMMANDS_PER_SESSION_MAX: u32 = 128;
/// Immediate commands in flight in one session; more are rejected.
pub const IMMEDIATE_COMMANDS_PER_SESSION_MAX: u32 = 16;
/// Bytes of one login or text negotiation sequence, over all PDUs joined by the C bit.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;
/// Keys in one text sequence.
pub const TEXT_KEYS_MAX: usize = 512;
/// Text exchanges of one login before it is refused.
pub const LOGIN_EXCHANGES_MAX: u32 = 64;
/// Data segment that this side declares it takes (MaxRecvDataSegmentLength), bytes.
pub const RECV_DATA_SEGMENT_MAX: u32 = 256 * 1024;
/// Bytes of one command's transfer, in either direction.
pub const TRANSFER_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Write data that one session may hold while it gathers Data-Out, bytes; R2Ts wait for room.
pub const SESSION_WRITE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Replies queued on one connection before its input is no longer read, bytes.
pub const CONNECTION_TX_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Seconds without any progress of a pending send before the connection is dropped.
pub const TX_STALL_SECONDS_MAX: u64 = 30;
/// Buffers that one reactor thread has out before further reads wait for some to come back, bytes.
pub const REACTOR_BUFFER_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Targets of one daemon.
pub const TARGETS_MAX: usize = 4096;
/// Logical units of one target.
pub const LUNS_PER_TARGET_MAX: usize = 16384;
/// Persistent reservation registrations of one logical unit.
pub const REGISTRATIONS_MAX: usize = 1024;
/// Unit attentions that are kept for one nexus of one logical unit.
pub const UNIT_ATTENTIONS_MAX: usize = 8;
/// Payload of one management request (the stock tool's limit), bytes.
pub const MANAGEMENT_PAYLOAD_MAX: usize = 8 * 1024;
/// Messages waiting in one reactor mailbox.
pub const MAILBOX_MAX: usize = 64 * 1024;

const _: () = {
    assert!(RECV_DATA_SEGMENT_MAX <= 0x00ff_ffff);
    assert!(TRANSFER_BYTES_MAX as usize <= SESSION_WRITE_BYTES_MAX);
    assert!(CONNECTIONS_UNAUTHENTICATED_MAX < CONNECTIONS_MAX);
    assert!(SESSIONS_MAX <= CONNECTIONS_MAX);
    assert!(SESSIONS_MAX < u16::MAX as usize);
};
