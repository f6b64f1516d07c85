//! A connection: its framing, its send queue, its numbers, and where in its life it is.
//!
//! RFC 7143 8.1 (target side), as far as a machine without sockets sees it:
//!
//! ```text
//!            accept/adopt                 final Login Response              Logout Request
//!   (free) ───────────────▶ Login (S3/S4) ────────────────────▶ Full (S5) ───────────────▶ Closing (S6/S7)
//!                             │ refused, time limit                │ protocol error, tx stall,    │ all sent, or
//!                             │                                    │ no sign of life, management  │ `close_by` passed
//!                             ▼                                    ▼                              ▼
//!                          Closing ────────────────────────────▶ Closing ─────────────────────▶ (free, Action::Close)
//!      any state: socket failed, end of stream, handover ───────────────────────────────────▶ (free)
//! ```

use std::collections::VecDeque;

use base::Mono;
use iscsi::pdu::{Tag, TargetNumbers};
use iscsi::serial::Serial;

use crate::api::{PeerInfo, SessionId};
use crate::login::Login;
use crate::rx::Rx;
use crate::text::TextExchange;
use crate::tx::{Format, Out, Tx};

/// Where a connection is in its life; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Before the end of the login.
    Login,
    /// In the full feature phase.
    Full,
    /// Nothing more is read; what is queued goes out, at the longest until `close_by`.
    Closing,
}

/// MaxRecvDataSegmentLength before it is negotiated (RFC 7143 13.12), and in the login.
pub(crate) const DEFAULT_SEGMENT: u32 = 8192;

/// See the module.
pub(crate) struct Conn {
    pub peer: PeerInfo,
    pub phase: Phase,
    pub session: Option<SessionId>,
    pub cid: u16,
    pub rx: Rx,
    pub tx: Tx,
    pub format: Format,
    /// What this side declared.
    pub max_recv_segment: u32,
    pub stat_sn: Serial,
    /// What the initiator has acknowledged: everything before.
    pub acked: Serial,
    /// Sent and not acknowledged (recovery level above 0 only).
    pub unacked: VecDeque<Out>,
    pub unacked_bytes: usize,
    /// Responses are kept until they are acknowledged.
    pub keeps: bool,
    pub login: Option<Box<Login>>,
    pub text: Option<Box<TextExchange>>,
    pub last_rx: Mono,
    pub last_ping: Mono,
    pub pings: u32,
    pub ping_tag: u32,
    pub login_by: Mono,
    pub close_by: Mono,
    /// The greatest deadline that the machine's timers hold for this connection.
    pub timer_at: Mono,
    /// `Action::Transmit` is on its way.
    pub announced: bool,
    /// PDUs received.
    pub pdus_in: u64,
}

impl Conn {
    pub fn new(peer: PeerInfo, now: Mono, login_by: Mono) -> Self {
        Conn {
            peer,
            phase: Phase::Login,
            session: None,
            cid: 0,
            rx: Rx::default(),
            tx: Tx::default(),
            format: Format {
                header_digest: false,
                data_digest: false,
                max_segment: DEFAULT_SEGMENT,
                max_burst: u32::MAX,
            },
            max_recv_segment: DEFAULT_SEGMENT,
            stat_sn: Serial(1),
            acked: Serial(1),
            unacked: VecDeque::new(),
            unacked_bytes: 0,
            keeps: false,
            login: None,
            text: None,
            last_rx: now,
            last_ping: now,
            pings: 0,
            ping_tag: 0,
            login_by,
            close_by: Mono::NEVER,
            timer_at: Mono::NEVER,
            announced: false,
            pdus_in: 0,
        }
    }

    /// Bytes that it holds for its peer.
    pub fn held_bytes(&self) -> usize {
        let login = self.login.as_ref().map_or(0, |l| l.held_bytes());
        self.rx.held_bytes() + self.tx.queued_bytes() + self.unacked_bytes + login
    }

    /// The StatSN of a response that is queued now.
    pub fn next_stat_sn(&mut self) -> Serial {
        let sn = self.stat_sn;
        self.stat_sn = sn.next();
        sn
    }

    /// A target transfer tag for a NOP-In.
    pub fn next_ping_tag(&mut self) -> Tag {
        self.ping_tag = self.ping_tag.wrapping_add(1);
        if self.ping_tag == Tag::RESERVED.0 {
            self.ping_tag = 1;
        }
        Tag(self.ping_tag)
    }

    /// Numbers of a PDU whose ExpCmdSN and MaxCmdSN are filled in when it is sent.
    pub fn no_numbers() -> TargetNumbers {
        TargetNumbers::default()
    }
}
