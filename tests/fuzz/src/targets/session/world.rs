//! The machine's surroundings: connections as queues of bytes, a directory with one target, and an engine's tasks.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use base::Mono;
use base::random::SeededRandom;
use block::{Buf, Bufs, Pool};
use iscsi::chap::Account;
use iscsi::digest;
use iscsi::params::Settings;
use iscsi::pdu::{BHS_LEN, Bhs, Frame, Opcode, Response, Tag, set_data_len};
use scsi::{DataIn, Reply, Status};
use target_session::{
    Action, AsyncEvent, AuthPolicy, CloseHow, ConnId, Cx, Directory, LoginRefusal, Machine, MachineConfig,
    PeerInfo, PortalAddress, SessionId, SessionKey, SessionPlace, SessionSlot, TargetListing, TargetLogin,
    TaskId, TmfId, TmfResponse, Who,
};

const TARGET: &str = "iqn.2001-04.com.example:disk";
const CONNECTIONS_MAX: usize = 8;

struct OneTarget {
    auth: AuthPolicy,
    nop_interval: u32,
    sessions: BTreeMap<SessionKey, SessionPlace>,
    next_tsih: u16,
}

impl Directory for OneTarget {
    fn discovery_auth(&self) -> AuthPolicy {
        self.auth.clone()
    }

    fn visible_targets(&self, _: &Who) -> Vec<TargetListing> {
        let at = |port| (PortalAddress::Socket(SocketAddr::from((Ipv4Addr::LOCALHOST, port))), 1);
        vec![TargetListing { name: TARGET.into(), portals: vec![at(3260), at(3261)] }; 3]
    }

    fn login(&self, who: &Who, target: &str) -> Result<TargetLogin, LoginRefusal> {
        match (target, who.initiator.ends_with("stranger")) {
            (TARGET, true) => return Err(LoginRefusal::NotAuthorized),
            (TARGET, false) => {}
            ("moved", _) => {
                return Err(LoginRefusal::Redirect {
                    to: PortalAddress::Host("elsewhere".into(), 860),
                    permanent: true,
                });
            }
            _ => return Err(LoginRefusal::NotFound),
        }
        let mut params = Settings::default();
        params.session.error_recovery_level = 2;
        Ok(TargetLogin {
            tid: 1,
            name: TARGET.into(),
            alias: "a disk".into(),
            auth: self.auth.clone(),
            params,
            nop_interval: self.nop_interval,
            nop_count: 2,
            max_queue_cmd: 8,
        })
    }

    fn register_session(&mut self, key: &SessionKey, thread: u32) -> SessionSlot {
        if let Some(place) = self.sessions.get(key) {
            return SessionSlot::OnThread(place.thread);
        }
        if self.sessions.len() == 4 {
            return SessionSlot::Full;
        }
        let tsih = self.next_tsih;
        self.next_tsih += 1;
        self.sessions.insert(key.clone(), SessionPlace { thread, tsih });
        SessionSlot::Registered { tsih }
    }

    fn find_session(&self, key: &SessionKey) -> Option<SessionPlace> {
        self.sessions.get(key).copied()
    }

    fn unregister_session(&mut self, key: &SessionKey, tsih: u16) {
        assert_eq!(self.sessions.remove(key).map(|place| place.tsih), Some(tsih), "unregistered twice");
    }
}

struct Wire {
    id: ConnId,
    to_target: Vec<u8>,
    from_target: Vec<u8>,
    header_digest: bool,
    data_digest: bool,
    tags: Vec<Tag>,
    exp_stat_sn: u32,
    exp_cmd_sn: u32,
    closed: bool,
}

struct Running {
    id: TaskId,
    expected_in: u32,
    aborting: bool,
}

pub(super) struct World {
    machine: Machine,
    pool: Pool,
    random: SeededRandom,
    directory: OneTarget,
    now: Mono,
    wires: Vec<Wire>,
    tasks: Vec<Running>,
    tmfs: Vec<TmfId>,
    up: Vec<SessionId>,
    aborts: u64,
    rx_chunk: usize,
    tx_chunk: usize,
}

macro_rules! cx {
    ($world:expr) => {
        &mut Cx {
            now: $world.now,
            pool: &$world.pool,
            entropy: &mut $world.random,
            directory: &mut $world.directory,
        }
    };
}

impl World {
    /// A machine with one connection; by the bits of `choice`: 1 logged in, 2 with digests, 4 with recovery level 2, 8 with
    /// unsolicited data, 16 with small lengths, 32 with CHAP (and so not logged in), 64 in a discovery session, 128 with NOPs.
    pub(super) fn new(choice: u8) -> World {
        let account = |user: &str, secret: &str| Account { user: user.into(), secret: secret.into() };
        let auth = match choice & 32 != 0 {
            false => AuthPolicy::default(),
            true => AuthPolicy {
                incoming: vec![account("alice", "open sesame 1234")],
                outgoing: Some(account("target", "another secret!!")),
                algorithms: Vec::new(),
            },
        };
        let nop_interval = if choice & 128 != 0 { 5 } else { 0 };
        let mut world = World {
            machine: Machine::new(MachineConfig::default()),
            pool: Pool::default(),
            random: SeededRandom::new(choice.into()),
            directory: OneTarget { auth, nop_interval, sessions: BTreeMap::new(), next_tsih: 1 },
            now: Mono::from_nanos(1),
            wires: Vec::new(),
            tasks: Vec::new(),
            tmfs: Vec::new(),
            up: Vec::new(),
            aborts: 0,
            rx_chunk: 4096,
            tx_chunk: 65536,
        };
        world.connect();
        if choice & 1 != 0 {
            world.login(choice);
        }
        world
    }

    fn login(&mut self, choice: u8) {
        let mut text = String::from(
            "InitiatorName=iqn.2001-04.com.example:host\0MaxConnections=4\0MaxOutstandingR2T=4\0",
        );
        let kind = if choice & 64 != 0 {
            "SessionType=Discovery"
        } else {
            "TargetName=iqn.2001-04.com.example:disk"
        };
        for (bits, keys) in [
            (0, kind),
            (2, "HeaderDigest=CRC32C\0DataDigest=CRC32C"),
            (4, "ErrorRecoveryLevel=2"),
            (8, "InitialR2T=No\0ImmediateData=Yes"),
            (16, "MaxRecvDataSegmentLength=512\0MaxBurstLength=1024\0FirstBurstLength=512"),
        ] {
            if choice & bits == bits {
                text.push_str(keys);
                text.push('\0');
            }
        }
        let t_and_stages = 0x87;
        self.send_pdu(0, Opcode::LoginRequest, true, [t_and_stages, 0, 1, 0], text.as_bytes());
        self.turn();
        let in_session = match choice & 96 {
            0 => self.up.len() == 1,
            64 => !self.wires[0].closed,
            _ => true,
        };
        assert!(in_session, "the login did not succeed: {choice:#x} {:02x?}", self.wires[0].from_target);
    }

    pub(super) fn connect(&mut self) {
        if self.wires.iter().filter(|wire| !wire.closed).count() == CONNECTIONS_MAX {
            return;
        }
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let peer = PeerInfo { peer: at(40_000), local: at(3260), portal_group: 1 };
        let Ok(id) = self.machine.accept(cx!(self), peer) else { panic!("refused below the limits") };
        self.wires.push(Wire {
            id,
            to_target: Vec::new(),
            from_target: Vec::new(),
            header_digest: false,
            data_digest: false,
            tags: vec![Tag::RESERVED],
            exp_stat_sn: 0,
            exp_cmd_sn: 1,
            closed: false,
        });
    }

    fn wire(&self, which: usize) -> Option<usize> {
        let open: Vec<usize> = (0..self.wires.len()).filter(|&i| !self.wires[i].closed).collect();
        (!open.is_empty()).then(|| open[which % open.len()])
    }

    pub(super) fn send(&mut self, which: usize, bytes: &[u8]) {
        if let Some(i) = self.wire(which) {
            self.wires[i].to_target.extend_from_slice(bytes);
        }
    }

    /// A PDU whose numbers and tags nearly fit.
    pub(super) fn send_pdu(
        &mut self,
        which: usize,
        opcode: Opcode,
        immediate: bool,
        fields: [u8; 4],
        data: &[u8],
    ) {
        let Some(i) = self.wire(which) else { return };
        let [flags, number, tag, extra] = fields;
        let wire = &mut self.wires[i];
        let mut bhs: Bhs = [0; BHS_LEN];
        let mut put = |at: usize, v: u32| bhs[at..at + 4].copy_from_slice(&v.to_be_bytes());
        let ttt = wire.tags[usize::from(tag >> 4) % wire.tags.len()].0;
        let off = |n: u8| [0u32, 0, 0, 0, 0, 1, 2, u32::MAX][usize::from(n & 7)];
        put(8, u32::from(extra & 3) << 16);
        put(16, if tag & 15 == 15 { u32::MAX } else { u32::from(tag & 15) });
        put(
            20,
            match opcode {
                Opcode::ScsiCommand => u32::from(extra) * 512,
                Opcode::TmfRequest => u32::from(extra & 15),
                Opcode::LoginRequest | Opcode::LogoutRequest => u32::from(extra & 3) << 16,
                _ => ttt,
            },
        );
        put(24, wire.exp_cmd_sn.wrapping_add(off(number)));
        put(28, wire.exp_stat_sn.wrapping_sub(off(number >> 5)));
        match opcode {
            Opcode::ScsiCommand => put(32, 0x2800_0000),
            Opcode::TmfRequest => put(32, wire.exp_cmd_sn.wrapping_sub(u32::from(number >> 3 & 3))),
            Opcode::DataOut => {
                put(36, u32::from(number >> 3 & 3));
                put(40, u32::from(extra) * 64);
            }
            Opcode::Snack => {
                put(40, u32::from(extra >> 4));
                put(44, u32::from(extra & 15));
            }
            Opcode::LoginRequest => {
                put(8, 0x8000_0000 | u32::from(extra >> 4 & 1));
                put(12, u32::from(extra >> 5));
            }
            _ => {}
        }
        bhs[0] = opcode as u8 | if immediate { 0x40 } else { 0 };
        bhs[1] = flags;
        set_data_len(&mut bhs, data.len() as u32);
        let out = &mut wire.to_target;
        out.extend_from_slice(&bhs);
        // Two of its values spoil the digests.
        let digests = opcode != Opcode::LoginRequest;
        if wire.header_digest && digests {
            let spoil = u8::from(number == 0x1e);
            out.extend(digest::header(&bhs, &[]).map(|b| b ^ spoil));
        }
        if !data.is_empty() {
            out.extend_from_slice(data);
            out.resize(out.len() + iscsi::pdu::padding(data.len() as u32), 0);
            if wire.data_digest && digests {
                let spoil = u8::from(number == 0x1d);
                out.extend(digest::data([data]).map(|b| b ^ spoil));
            }
        }
    }

    pub(super) fn chunks(&mut self, rx: usize, tx: usize) {
        (self.rx_chunk, self.tx_chunk) = (rx.max(1), tx);
    }

    pub(super) fn wait(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
        self.machine.tick(cx!(self));
        assert!(self.machine.next_deadline() > self.now, "a deadline that is not met");
    }

    /// The connection ends, by its peer or by an error.
    pub(super) fn lose(&mut self, which: usize, by_peer: bool) {
        let Some(i) = self.wire(which) else { return };
        let id = self.wires[i].id;
        match self.machine.take_rx(cx!(self), id) {
            Some(batch) if by_peer => self.machine.rx_done(cx!(self), id, batch, 0),
            _ => self.machine.conn_failed(cx!(self), id),
        }
    }

    fn session(&self, which: usize) -> Option<SessionId> {
        (!self.up.is_empty()).then(|| self.up[which % self.up.len()])
    }

    pub(super) fn close_session(&mut self, which: usize, how: CloseHow) {
        if let Some(session) = self.session(which) {
            self.machine.close_session(cx!(self), session, how);
        }
    }

    pub(super) fn drop_connection(&mut self, which: usize) {
        if let Some(i) = self.wire(which) {
            self.machine.drop_connection(cx!(self), self.wires[i].id);
        }
    }

    pub(super) fn send_async(&mut self, which: usize, event: AsyncEvent) {
        if let Some(session) = self.session(which) {
            self.machine.send_async(cx!(self), session, event);
        }
    }

    pub(super) fn abort_tasks(&mut self, which: usize, lun: Option<u64>) {
        if let Some(session) = self.session(which) {
            self.aborts += 1;
            self.machine.abort_tasks(cx!(self), session, lun, None, self.aborts);
        }
    }

    pub(super) fn finish_task(&mut self, which: usize, how: u8, len: u32) {
        if self.tasks.is_empty() {
            return;
        }
        let running = self.tasks.swap_remove(which % self.tasks.len());
        if running.aborting && how & 1 != 0 {
            self.machine.task_aborted(cx!(self), running.id);
            return;
        }
        let len = len.min(running.expected_in);
        let data_in = match how & 6 {
            0 => DataIn::None,
            2 => DataIn::Bytes(vec![how; len as usize]),
            _ => {
                let mut bufs = Bufs::new();
                let mut left = len as usize;
                while left > 0 {
                    let piece = left.min(700);
                    bufs.push(self.pool.get_zeroed(piece));
                    left -= piece;
                }
                DataIn::Bufs(bufs)
            }
        };
        let (status, sense) = match how & 8 {
            0 => (Status::Good, None),
            _ => (
                Status::CheckCondition,
                Some(vec![0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0, 0, 0]),
            ),
        };
        let transfer_len = u64::from(len) + u64::from(how >> 4) * 512;
        self.machine.task_done(cx!(self), running.id, Reply { status, sense, data_in, transfer_len });
    }

    pub(super) fn finish_tmf(&mut self, which: usize, response: TmfResponse) {
        if !self.tmfs.is_empty() {
            let tmf = self.tmfs.swap_remove(which % self.tmfs.len());
            self.machine.tmf_done(cx!(self), tmf, response);
        }
    }

    /// Moves bytes both ways and takes actions until nothing is left to do.
    pub(super) fn turn(&mut self) {
        for round in 0.. {
            assert!(round < 100_000, "no end of actions");
            let mut moved = false;
            for i in 0..self.wires.len() {
                moved |= self.feed(i);
            }
            while let Some(action) = self.machine.poll_action() {
                moved = true;
                self.act(action);
            }
            if !moved {
                return;
            }
        }
    }

    fn feed(&mut self, i: usize) -> bool {
        let id = self.wires[i].id;
        let mut moved = false;
        while !self.wires[i].to_target.is_empty() && !self.wires[i].closed {
            let Some(mut batch) = self.machine.take_rx(cx!(self), id) else { break };
            let mut n = 0;
            let bytes: Vec<u8> = self.wires[i].to_target.iter().copied().take(self.rx_chunk).collect();
            for room in batch.direct.iter_mut().chain([&mut batch.staging]) {
                let piece = room.len().min(bytes.len() - n);
                room[..piece].copy_from_slice(&bytes[n..n + piece]);
                n += piece;
            }
            assert!(n > 0, "a receive without room");
            self.wires[i].to_target.drain(..n);
            self.machine.rx_done(cx!(self), id, batch, n);
            self.drain(i);
            moved = true;
        }
        moved
    }

    /// Sends what is ready; a socket that takes nothing takes nothing.
    fn drain(&mut self, i: usize) {
        let id = self.wires[i].id;
        while self.tx_chunk > 0 {
            let Some(batch) = self.machine.take_tx(cx!(self), id, 128, 64 * 1024) else { return };
            let mut bytes = Vec::new();
            for &segment in &batch.segments {
                bytes.extend_from_slice(batch.bytes(segment));
            }
            assert_eq!(bytes.len(), batch.total);
            assert!(!bytes.is_empty(), "an empty send");
            bytes.truncate(self.tx_chunk);
            self.wires[i].from_target.extend_from_slice(&bytes);
            self.machine.tx_done(cx!(self), id, batch, bytes.len());
            self.wires[i].read();
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Transmit(id) => {
                if let Some(i) = self.wires.iter().position(|wire| wire.id == id) {
                    self.drain(i);
                }
            }
            Action::Resume(_) => {}
            Action::Execute { task, command, .. } => {
                let out: usize = command.data_out.iter().map(|buf: &Buf| buf.len()).sum();
                assert!(out <= command.expected_out as usize, "{out} bytes of {}", command.expected_out);
                assert!(self.tasks.iter().all(|running| running.id != task), "executed twice");
                self.tasks.push(Running { id: task, expected_in: command.expected_in, aborting: false });
            }
            Action::AbortTask { task } => {
                if let Some(running) = self.tasks.iter_mut().find(|running| running.id == task) {
                    assert!(!std::mem::replace(&mut running.aborting, true), "aborted twice");
                }
            }
            Action::Manage { tmf, .. } => self.tmfs.push(tmf),
            Action::TasksAborted { token } => assert!(token <= self.aborts),
            Action::SessionUp { session } => {
                // It may be over again by the time that this is read; then its end follows.
                assert!(!self.up.contains(&session), "up twice");
                self.up.push(session);
            }
            Action::SessionDown { session } => {
                let at = self.up.iter().position(|&up| up == session);
                assert!(at.is_some(), "a session ends that was not up");
                self.up.retain(|&up| up != session);
            }
            Action::Handover { .. } => panic!("there is one thread"),
            Action::Close(id) => {
                let wire = self.wires.iter_mut().find(|wire| wire.id == id);
                assert!(wire.is_some_and(|wire| !std::mem::replace(&mut wire.closed, true)), "closed twice");
            }
        }
    }

    /// Everything ends, and nothing is left.
    pub(super) fn finish(mut self) {
        self.chunks(65536, 65536);
        for i in 0..self.wires.len() {
            if !self.wires[i].closed {
                self.machine.conn_failed(cx!(self), self.wires[i].id);
            }
        }
        self.turn();
        for _ in 0..8 {
            while !self.tasks.is_empty() {
                self.finish_task(0, 1, 0);
            }
            while !self.tmfs.is_empty() {
                self.finish_tmf(0, TmfResponse::Complete);
            }
            self.wait(4000);
            self.turn();
        }
        assert!(self.wires.iter().all(|wire| wire.closed), "a connection without end");
        assert!(self.up.is_empty() && self.machine.sessions().next().is_none(), "a session without end");
        assert!(self.directory.sessions.is_empty(), "a session that is still registered");
        assert_eq!(self.machine.next_deadline(), Mono::NEVER, "a timer of nothing");
        drop(self.machine);
        assert_eq!(self.pool.used_bytes(), 0, "buffers that did not come back");
    }
}

impl Wire {
    /// Reads the whole PDUs that came.
    fn read(&mut self) {
        while let Some(&bhs) = self.from_target.first_chunk::<BHS_LEN>() {
            let login = bhs[0] & 0x3f == Opcode::LoginResponse as u8;
            let (header_digest, data_digest) = (self.header_digest && !login, self.data_digest && !login);
            let frame = Frame::of(&bhs);
            let len = frame.wire_len(header_digest, data_digest);
            if self.from_target.len() < len {
                return;
            }
            let bytes: Vec<u8> = self.from_target.drain(..len).collect();
            if header_digest {
                assert_eq!(bytes[BHS_LEN..BHS_LEN + 4], digest::header(&bhs, &[]), "header digest");
            }
            let parsed = Response::parse(&bhs);
            let Ok(pdu) = parsed else { panic!("{parsed:?} {bhs:02x?}") };
            match pdu {
                Response::R2t(r2t) => self.tags.push(r2t.ttt),
                Response::Text(text) => self.tags.push(text.ttt),
                Response::NopIn(nop) => self.tags.push(nop.ttt),
                Response::DataIn(data) => self.tags.push(data.ttt),
                Response::Login(response) if response.status.is_success() => {
                    let text = String::from_utf8_lossy(&bytes[BHS_LEN..]);
                    self.header_digest |= text.contains("HeaderDigest=CRC32C");
                    self.data_digest |= text.contains("DataDigest=CRC32C");
                }
                _ => {}
            }
            if self.tags.len() > 16 {
                self.tags.remove(1);
            }
            let number = |at: usize| u32::from_be_bytes([bhs[at], bhs[at + 1], bhs[at + 2], bhs[at + 3]]);
            self.exp_stat_sn = number(24).wrapping_add(1);
            self.exp_cmd_sn = number(28);
        }
    }
}
