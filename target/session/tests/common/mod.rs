//! A test initiator and a virtual link: bytes between a [`Machine`] and hands that play the engine.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    clippy::too_many_arguments
)]

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use base::Mono;
use base::random::SeededRandom;
use block::{Buf, Pool};
use iscsi::chap::Account;
use iscsi::digest::Crc32c;
use iscsi::params::Settings;
use iscsi::pdu::*;
use iscsi::serial::Serial;
use scsi::{DataIn as Din, Reply, Status};
use target_session::*;

pub const INITIATOR: &str = "iqn.2004-10.com.example:initiator";
pub const TARGET: &str = "iqn.2001-04.com.example:disk";

pub struct DirState {
    pub params: Settings,
    pub auth: AuthPolicy,
    pub discovery: AuthPolicy,
    pub refuse: Option<LoginRefusal>,
    pub nop: (u32, u32),
    pub queue: u32,
    pub sessions: BTreeMap<SessionKey, SessionPlace>,
    pub next_tsih: u16,
    pub listing: Vec<TargetListing>,
}

#[derive(Clone)]
pub struct Dir(pub Rc<RefCell<DirState>>);

impl Dir {
    pub fn new() -> Self {
        let portal = PortalAddress::Socket("10.0.0.1:3260".parse().unwrap());
        Dir(Rc::new(RefCell::new(DirState {
            params: Settings::default(),
            auth: AuthPolicy::default(),
            discovery: AuthPolicy::default(),
            refuse: None,
            nop: (0, 0),
            queue: 128,
            sessions: BTreeMap::new(),
            next_tsih: 1,
            listing: vec![TargetListing { name: TARGET.into(), portals: vec![(portal, 1)] }],
        })))
    }
}

impl Directory for Dir {
    fn discovery_auth(&self) -> AuthPolicy {
        self.0.borrow().discovery.clone()
    }
    fn visible_targets(&self, _: &Who) -> Vec<TargetListing> {
        self.0.borrow().listing.clone()
    }
    fn login(&self, _: &Who, target: &str) -> Result<TargetLogin, LoginRefusal> {
        let d = self.0.borrow();
        if let Some(no) = &d.refuse {
            return Err(no.clone());
        }
        if target != TARGET {
            return Err(LoginRefusal::NotFound);
        }
        Ok(TargetLogin {
            tid: 1,
            name: TARGET.into(),
            alias: "a disk".into(),
            auth: d.auth.clone(),
            params: d.params.clone(),
            nop_interval: d.nop.0,
            nop_count: d.nop.1,
            max_queue_cmd: d.queue,
        })
    }
    fn register_session(&mut self, key: &SessionKey, thread: u32) -> SessionSlot {
        let mut d = self.0.borrow_mut();
        if let Some(place) = d.sessions.get(key) {
            return SessionSlot::OnThread(place.thread);
        }
        let tsih = d.next_tsih;
        d.next_tsih += 1;
        d.sessions.insert(key.clone(), SessionPlace { thread, tsih });
        SessionSlot::Registered { tsih }
    }
    fn find_session(&self, key: &SessionKey) -> Option<SessionPlace> {
        self.0.borrow().sessions.get(key).copied()
    }
    fn unregister_session(&mut self, key: &SessionKey, tsih: u16) {
        let gone = self.0.borrow_mut().sessions.remove(key);
        assert_eq!(gone.map(|p| p.tsih), Some(tsih));
    }
}

#[derive(Default)]
pub struct Wire {
    /// From the target.
    pub inbox: Vec<u8>,
    /// To the target, while it does not read.
    pub outbox: Vec<u8>,
    pub closed: bool,
}

pub struct World {
    pub m: Machine,
    pub pool: Pool,
    pub rng: SeededRandom,
    pub dir: Dir,
    pub now: Mono,
    pub actions: Vec<Action>,
    pub wires: HashMap<ConnId, Wire>,
    /// Bytes of one receive at most.
    pub rx_chunk: usize,
    /// Bytes of one send at most; 0: the socket takes nothing.
    pub tx_chunk: usize,
    pub used_direct: usize,
}

macro_rules! cx {
    ($w:expr) => {
        &mut Cx { now: $w.now, pool: &$w.pool, entropy: &mut $w.rng, directory: &mut $w.dir }
    };
}
pub(crate) use cx;

impl World {
    pub fn new() -> Self {
        World::with(Dir::new(), MachineConfig::default())
    }

    pub fn with(dir: Dir, config: MachineConfig) -> Self {
        World {
            m: Machine::new(config),
            pool: Pool::default(),
            rng: SeededRandom::new(7),
            dir,
            now: Mono::from_nanos(1_000_000_000),
            actions: vec![],
            wires: HashMap::new(),
            rx_chunk: usize::MAX,
            tx_chunk: usize::MAX,
            used_direct: 0,
        }
    }

    pub fn connect(&mut self) -> ConnId {
        let peer = PeerInfo {
            peer: "10.0.0.9:40000".parse().unwrap(),
            local: "10.0.0.1:3260".parse().unwrap(),
            portal_group: 1,
        };
        let id = self.m.accept(cx!(self), peer).unwrap();
        self.wires.insert(id, Wire::default());
        id
    }

    /// Sends bytes to the target.
    pub fn send(&mut self, id: ConnId, bytes: &[u8]) {
        self.wires.get_mut(&id).unwrap().outbox.extend_from_slice(bytes);
        self.turn();
    }

    fn feed(&mut self, id: ConnId) {
        loop {
            let wire = self.wires.get_mut(&id).unwrap();
            if wire.outbox.is_empty() || wire.closed {
                return;
            }
            let Some(mut batch) = self.m.take_rx(cx!(self), id) else { return };
            let wire = self.wires.get_mut(&id).unwrap();
            let mut n = 0;
            let mut rest = &wire.outbox[..wire.outbox.len().min(self.rx_chunk)];
            if let Some(direct) = &mut batch.direct {
                self.used_direct += 1;
                let k = rest.len().min(direct.len());
                direct[..k].copy_from_slice(&rest[..k]);
                rest = &rest[k..];
                n += k;
            }
            let k = rest.len().min(batch.staging.len());
            batch.staging[..k].copy_from_slice(&rest[..k]);
            n += k;
            assert!(n > 0, "no room to receive into");
            wire.outbox.drain(..n);
            self.m.rx_done(cx!(self), id, batch, n);
            self.drain_tx(id);
        }
    }

    pub fn drain_tx(&mut self, id: ConnId) {
        while self.tx_chunk > 0 {
            let Some(batch) = self.m.take_tx(cx!(self), id, 256, 256 * 1024) else { return };
            let mut bytes = vec![];
            for &s in &batch.segments {
                bytes.extend_from_slice(batch.bytes(s));
            }
            assert_eq!(bytes.len(), batch.total);
            let n = bytes.len().min(self.tx_chunk);
            self.wires.get_mut(&id).unwrap().inbox.extend_from_slice(&bytes[..n]);
            self.m.tx_done(cx!(self), id, batch, n);
        }
    }

    /// Plays the engine until nothing is left to do.
    pub fn turn(&mut self) {
        loop {
            let ids: Vec<ConnId> = self.wires.keys().copied().collect();
            for id in ids {
                self.feed(id);
            }
            let mut any = false;
            while let Some(action) = self.m.poll_action() {
                any = true;
                match action {
                    Action::Transmit(id) => self.drain_tx(id),
                    Action::Resume(_) => {}
                    Action::Close(id) => {
                        let wire = self.wires.get_mut(&id).unwrap();
                        assert!(!wire.closed, "closed twice");
                        wire.closed = true;
                    }
                    other => self.actions.push(other),
                }
            }
            if !any {
                return;
            }
        }
    }

    pub fn wait(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
        self.m.tick(cx!(self));
        self.turn();
    }

    pub fn closed(&self, id: ConnId) -> bool {
        self.wires[&id].closed
    }

    /// The one command that is to be executed.
    pub fn executed(&mut self) -> (TaskId, u64, scsi::Command) {
        let at = self.actions.iter().position(|a| matches!(a, Action::Execute { .. })).expect("a command");
        match self.actions.remove(at) {
            Action::Execute { task, lun, command, .. } => (task, lun, command),
            _ => unreachable!(),
        }
    }

    pub fn executes(&self) -> usize {
        self.actions.iter().filter(|a| matches!(a, Action::Execute { .. })).count()
    }

    pub fn done(&mut self, task: TaskId, reply: Reply) {
        self.m.task_done(cx!(self), task, reply);
        self.turn();
    }

    pub fn good(&mut self, task: TaskId, data: &[u8], transfer_len: u64) {
        let data_in = if data.is_empty() {
            Din::None
        } else {
            Din::Bufs(data.chunks(100_000).map(Buf::copy_of).collect())
        };
        self.done(task, Reply { status: Status::Good, sense: None, data_in, transfer_len });
    }

    pub fn action(&mut self, which: impl Fn(&Action) -> bool) -> Option<Action> {
        let at = self.actions.iter().position(which)?;
        Some(self.actions.remove(at))
    }

    pub fn session_up(&mut self) -> SessionId {
        match self.action(|a| matches!(a, Action::SessionUp { .. })) {
            Some(Action::SessionUp { session }) => session,
            _ => panic!("no session came up"),
        }
    }

    pub fn session_down(&mut self) -> bool {
        self.action(|a| matches!(a, Action::SessionDown { .. })).is_some()
    }

    /// Everything is gone and nothing leaked.
    pub fn assert_empty(&mut self) {
        assert_eq!(self.m.sessions().count(), 0);
        assert!(self.dir.0.borrow().sessions.is_empty());
        assert!(self.wires.values().all(|w| w.closed));
    }
}

/// One connection of an initiator.
pub struct Ini {
    pub conn: ConnId,
    pub cid: u16,
    pub isid: [u8; 6],
    pub tsih: u16,
    pub itt: u32,
    pub cmd_sn: u32,
    pub exp_stat_sn: u32,
    pub max_cmd_sn: u32,
    pub exp_cmd_sn: u32,
    pub header_digest: bool,
    pub data_digest: bool,
}

pub fn text(pairs: &[(&str, &str)]) -> Vec<u8> {
    pairs.iter().flat_map(|(k, v)| format!("{k}={v}\0").into_bytes()).collect()
}

pub const NAMES: [(&str, &str); 3] =
    [("InitiatorName", INITIATOR), ("TargetName", TARGET), ("SessionType", "Normal")];

/// A PDU as it travels.
pub fn wire(request: &Request, ahs: &[u8], data: &[u8], header_digest: bool, data_digest: bool) -> Vec<u8> {
    let mut bhs = [0; BHS_LEN];
    request.encode(&mut bhs);
    bhs[4] = (ahs.len() / 4) as u8;
    set_data_len(&mut bhs, data.len() as u32);
    let mut out = bhs.to_vec();
    out.extend_from_slice(ahs);
    if header_digest {
        out.extend_from_slice(&iscsi::digest::header(&bhs, ahs));
    }
    if !data.is_empty() {
        out.extend_from_slice(data);
        out.resize(out.len() + padding(data.len() as u32), 0);
        if data_digest {
            out.extend_from_slice(&iscsi::digest::data([data]));
        }
    }
    out
}

impl Ini {
    pub fn new(w: &mut World) -> Self {
        let conn = w.connect();
        Ini {
            conn,
            cid: 0,
            isid: [0x80, 0, 0, 1, 0, 0],
            tsih: 0,
            itt: 1,
            cmd_sn: 100,
            exp_stat_sn: 0,
            max_cmd_sn: 0,
            exp_cmd_sn: 0,
            header_digest: false,
            data_digest: false,
        }
    }

    pub fn login_request(
        &self,
        stage: LoginStage,
        transit: Option<LoginStage>,
        continues: bool,
    ) -> LoginRequest {
        LoginRequest {
            continues,
            stage,
            transit,
            version_max: 0,
            version_min: 0,
            isid: self.isid,
            tsih: self.tsih,
            itt: Tag(1),
            cid: self.cid,
            cmd_sn: Serial(self.cmd_sn),
            exp_stat_sn: Serial(self.exp_stat_sn),
            data_len: 0,
        }
    }

    pub fn send_login(&self, w: &mut World, stage: LoginStage, transit: Option<LoginStage>, data: &[u8]) {
        let pdu = Request::Login(self.login_request(stage, transit, false));
        w.send(self.conn, &wire(&pdu, &[], data, false, false));
    }

    /// A Login Request and its response.
    pub fn login_step(
        &mut self,
        w: &mut World,
        stage: LoginStage,
        transit: Option<LoginStage>,
        data: &[u8],
    ) -> (LoginResponse, String) {
        self.send_login(w, stage, transit, data);
        self.login_answer(w)
    }

    pub fn login_answer(&mut self, w: &mut World) -> (LoginResponse, String) {
        let (pdu, data) = self.recv(w);
        let Response::Login(pdu) = pdu else { panic!("{pdu:?}") };
        if pdu.transit == Some(LoginStage::FullFeature) {
            self.tsih = pdu.tsih;
        }
        (pdu, String::from_utf8(data).unwrap())
    }

    /// A whole login without authentication, in one request.
    pub fn login(&mut self, w: &mut World, extra: &[(&str, &str)]) -> String {
        let mut data = text(&NAMES);
        data.extend(text(extra));
        let (pdu, answer) = self.login_step(w, LoginStage::Operational, Some(LoginStage::FullFeature), &data);
        assert_eq!(pdu.status, LoginStatus::Success);
        if pdu.transit.is_none() {
            // The target has proposed something: take it.
            let proposals: Vec<(&str, &str)> = answer
                .split('\0')
                .filter_map(|p| p.split_once('='))
                .filter(|(k, _)| !extra.iter().any(|(e, _)| e == k) && !DECLARED.contains(k))
                .collect();
            let data = text(&proposals);
            let (pdu, _) = self.login_step(w, LoginStage::Operational, Some(LoginStage::FullFeature), &data);
            assert_eq!(pdu.transit, Some(LoginStage::FullFeature));
        }
        self.header_digest = extra.contains(&("HeaderDigest", "CRC32C"));
        self.data_digest = extra.contains(&("DataDigest", "CRC32C"));
        answer
    }

    /// The next PDU from the target.
    pub fn try_recv(&mut self, w: &mut World) -> Option<(Response, Vec<u8>)> {
        let inbox = &mut w.wires.get_mut(&self.conn).unwrap().inbox;
        let bhs: Bhs = *inbox.first_chunk()?;
        let frame = Frame::of(&bhs);
        // Login Responses have no digests.
        let login = bhs[0] & 0x3f == Opcode::LoginResponse as u8;
        let (hd, dd) = (self.header_digest && !login, self.data_digest && !login);
        let len = frame.wire_len(hd, dd);
        assert!(inbox.len() >= len, "half a PDU");
        let bytes: Vec<u8> = inbox.drain(..len).collect();
        let mut at = BHS_LEN;
        if hd {
            assert_eq!(bytes[48..52], iscsi::digest::header(&bhs, &[]));
            at += 4;
        }
        let data = bytes[at..at + frame.data_len as usize].to_vec();
        if dd && !data.is_empty() {
            let mut crc = Crc32c::new();
            crc.update(&bytes[at..len - 4]);
            assert_eq!(crc.finish(), bytes[len - 4..]);
        }
        let pdu = Response::parse(&bhs).expect("a PDU that parses");
        let sn = u32::from_be_bytes(bhs[24..28].try_into().unwrap());
        let takes = match &pdu {
            Response::R2t(_) => false,
            Response::DataIn(d) => d.status.is_some(),
            Response::NopIn(n) => !n.itt.is_reserved(),
            _ => true,
        };
        if takes {
            if self.exp_stat_sn != 0 {
                assert_eq!(sn, self.exp_stat_sn, "StatSN out of order in {pdu:?}");
            }
            self.exp_stat_sn = sn.wrapping_add(1);
        }
        self.exp_cmd_sn = u32::from_be_bytes(bhs[28..32].try_into().unwrap());
        self.max_cmd_sn = u32::from_be_bytes(bhs[32..36].try_into().unwrap());
        Some((pdu, data))
    }

    pub fn recv(&mut self, w: &mut World) -> (Response, Vec<u8>) {
        self.try_recv(w).expect("a PDU")
    }

    pub fn silent(&self, w: &World) -> bool {
        w.wires[&self.conn].inbox.is_empty()
    }

    pub fn send(&mut self, w: &mut World, request: &Request, data: &[u8]) {
        w.send(self.conn, &wire(request, &[], data, self.header_digest, self.data_digest));
    }

    pub fn command(&mut self, cdb: &[u8], read: bool, write: bool, len: u32) -> ScsiCommand {
        let mut c = [0; 16];
        c[..cdb.len()].copy_from_slice(cdb);
        let pdu = ScsiCommand {
            immediate: false,
            final_: true,
            read,
            write,
            attribute: TaskAttribute::Simple,
            priority: 0,
            lun: 1 << 48,
            itt: Tag(self.itt),
            expected_len: len,
            cmd_sn: Serial(self.cmd_sn),
            exp_stat_sn: Serial(self.exp_stat_sn),
            cdb: c,
            ahs_len: 0,
            data_len: 0,
        };
        self.itt += 1;
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        pdu
    }

    pub fn read10(&mut self, len: u32) -> ScsiCommand {
        self.command(&[0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0], true, false, len)
    }

    pub fn write10(&mut self, len: u32) -> ScsiCommand {
        self.command(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 8, 0], false, true, len)
    }

    /// Sends a SCSI command without data.
    pub fn start(&mut self, w: &mut World, pdu: ScsiCommand) -> Tag {
        self.send(w, &Request::ScsiCommand(pdu), &[]);
        pdu.itt
    }

    pub fn tmf(
        &mut self,
        w: &mut World,
        function: iscsi::pdu::TmfFunction,
        ref_itt: Tag,
        ref_cmd_sn: u32,
    ) -> Tag {
        let itt = Tag(self.itt);
        self.itt += 1;
        let pdu = TmfRequest {
            immediate: true,
            function,
            lun: 1 << 48,
            itt,
            ref_itt,
            cmd_sn: Serial(self.cmd_sn),
            exp_stat_sn: Serial(self.exp_stat_sn),
            ref_cmd_sn: Serial(ref_cmd_sn),
            exp_data_sn: Serial(0),
        };
        self.send(w, &Request::Tmf(pdu), &[]);
        itt
    }

    pub fn recv_tmf(&mut self, w: &mut World) -> (Tag, iscsi::pdu::TmfResponse) {
        match self.recv(w).0 {
            Response::Tmf(p) => (p.itt, p.response),
            other => panic!("{other:?}"),
        }
    }

    pub fn recv_scsi(&mut self, w: &mut World) -> (ScsiResponse, Vec<u8>) {
        match self.recv(w) {
            (Response::Scsi(p), data) => (p, data),
            other => panic!("{other:?}"),
        }
    }

    pub fn recv_r2t(&mut self, w: &mut World) -> R2t {
        match self.recv(w).0 {
            Response::R2t(p) => p,
            other => panic!("{other:?}"),
        }
    }

    /// Data-In until the status; the data and the last PDU.
    pub fn recv_data(&mut self, w: &mut World) -> (Vec<u8>, DataIn) {
        let mut all = vec![];
        for n in 0.. {
            let (Response::DataIn(p), data) = self.recv(w) else { panic!("not Data-In") };
            assert_eq!((p.offset as usize, p.data_sn), (all.len(), Serial(n)));
            all.extend(data);
            if p.status.is_some() {
                return (all, p);
            }
        }
        unreachable!()
    }

    pub fn data_out(
        &mut self,
        w: &mut World,
        itt: Tag,
        ttt: Tag,
        sn: u32,
        at: u32,
        data: &[u8],
        final_: bool,
    ) {
        let pdu = DataOut {
            final_,
            lun: if ttt.is_reserved() { 0 } else { 1 << 48 },
            itt,
            ttt,
            exp_stat_sn: Serial(self.exp_stat_sn),
            data_sn: Serial(sn),
            offset: at,
            data_len: 0,
        };
        self.send(w, &Request::DataOut(pdu), data);
    }

    pub fn logout(&mut self, w: &mut World, reason: LogoutReason, cid: u16) {
        let pdu = LogoutRequest {
            immediate: true,
            reason,
            itt: Tag(self.itt),
            cid,
            cmd_sn: Serial(self.cmd_sn),
            exp_stat_sn: Serial(self.exp_stat_sn),
        };
        self.itt += 1;
        self.send(w, &Request::Logout(pdu), &[]);
    }

    pub fn nop(&self, data_itt: u32) -> NopOut {
        NopOut {
            immediate: true,
            lun: 0,
            itt: Tag(data_itt),
            ttt: Tag::RESERVED,
            cmd_sn: Serial(self.cmd_sn),
            exp_stat_sn: Serial(self.exp_stat_sn),
            data_len: 0,
        }
    }
}

pub const DECLARED: [&str; 4] =
    ["TargetPortalGroupTag", "TargetAlias", "MaxRecvDataSegmentLength", "TargetAddress"];

pub fn account(user: &str, secret: &str) -> Account {
    Account { user: user.into(), secret: secret.as_bytes().to_vec() }
}

pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 / 3 + i / 251) as u8).collect()
}

pub fn logged_in(extra: &[(&str, &str)]) -> (World, Ini, SessionId) {
    let mut w = World::new();
    let mut i = Ini::new(&mut w);
    i.login(&mut w, extra);
    let s = w.session_up();
    (w, i, s)
}

pub fn bytes_of(command: &scsi::Command) -> Vec<u8> {
    command.data_out.iter().flat_map(|b| b.iter().copied()).collect()
}
