//! SCSI commands: from their PDU through their data to the engine, and their replies back (RFC 7143 4.2.2, 11.3, 11.4,
//! 11.7, 11.8).

use base::limits::{IMMEDIATE_COMMANDS_PER_SESSION_MAX, TRANSFER_BYTES_MAX};
use iscsi::pdu::{
    Ahs, DataOut, RejectReason, Residual, Response, ScsiCommand, ScsiResponse, ScsiResponseCode, Tag,
    TaskAttribute,
};
use iscsi::serial::Serial;
use scsi::{Attribute, DataIn, Reply, Status};

use crate::api::*;
use crate::conn::{Conn, Phase};
use crate::erl::r2t;
use crate::machine::{Ending, Machine};
use crate::rx::Sink;
use crate::session::{Admit, Held, Kind, Life, Session};
use crate::task::{Task, TaskState};
use crate::tx::{Out, Payload, Plan, Shape, segments_of};
use crate::write::{Fault, Take, WriteData};

impl Machine {
    /// The header of a SCSI Command: decides where its immediate data goes.
    pub(crate) fn command_header(&mut self, cx: &mut Cx<'_>, id: ConnId, pdu: &ScsiCommand) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Some(s) = conn.session.and_then(|s| self.sessions.get(s)) else { return };
        if s.kind == Kind::Discovery {
            self.protocol_error(cx, id, RejectReason::ProtocolError, "a SCSI command in a discovery session");
            return;
        }
        if s.admit(pdu.cmd_sn, pdu.immediate) == Admit::Ignore {
            conn.rx.request = None;
            return;
        }
        if pdu.immediate && s.immediate >= IMMEDIATE_COMMANDS_PER_SESSION_MAX {
            conn.rx.request = None;
            let bhs = *conn.rx.bhs();
            self.reject(id, &bhs, RejectReason::ImmediateCommandReject);
            return;
        }
        let Ok(ahs) = Ahs::parse(conn.rx.ahs()) else {
            self.count_format_error(id);
            self.protocol_error(cx, id, RejectReason::InvalidPduField, "bad additional header segment");
            return;
        };
        let mut task = new_task(s, id, pdu, &ahs);
        let fits = accepts_immediate(s, pdu, &mut task.write);
        let task = self.tasks.insert_with(|id| Task { id, ..task });
        conn.rx.arriving = Some(task);
        conn.rx.sink = if fits { Sink::Task { task, at: 0 } } else { Sink::Discard };
    }

    /// A whole SCSI Command.
    pub(crate) fn command_pdu(
        &mut self,
        cx: &mut Cx<'_>,
        id: ConnId,
        pdu: &ScsiCommand,
        sink: Sink,
        intact: bool,
    ) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Some(task_id) = conn.rx.arriving.take() else { return };
        let bhs = *conn.rx.bhs();
        let Some(session) = conn.session else { return };
        let Some(s) = self.sessions.get_mut(session) else { return };
        if !intact {
            self.tasks.remove(task_id);
            if s.recovery_level() == 0 {
                self.protocol_error(cx, id, RejectReason::DataDigestError, "data digest error");
            } else {
                // The command was not received; the initiator sends it again (RFC 7143 7.8).
                self.reject(id, &bhs, RejectReason::DataDigestError);
            }
            return;
        }
        let admit = s.admit(pdu.cmd_sn, pdu.immediate);
        if admit == Admit::Ignore {
            self.tasks.remove(task_id);
            return;
        }
        if s.tasks.contains_key(&pdu.itt.0) {
            self.tasks.remove(task_id);
            self.reject(id, &bhs, RejectReason::TaskInProgress);
            self.consume(cx, session, pdu.cmd_sn, pdu.immediate, Held::Gone);
            return;
        }
        let Some(task) = self.tasks.get_mut(task_id) else { return };
        task.state = TaskState::Held;
        task.last_data = cx.now;
        if matches!(sink, Sink::Task { .. }) {
            task.write.immediate(pdu.data_len);
        }
        s.tasks.insert(pdu.itt.0, task_id);
        s.info.stats.commands += 1;
        s.info.stats.bytes_in += u64::from(pdu.data_len);
        s.info.tasks += 1;
        if pdu.immediate {
            s.immediate += 1;
            self.start_task(cx, task_id);
        } else if admit == Admit::Due {
            s.exp_cmd_sn = s.exp_cmd_sn.next();
            self.start_task(cx, task_id);
            self.deliver_held(cx, session);
        } else {
            s.held.push((pdu.cmd_sn, Held::Task(task_id)));
        }
    }

    /// The number of a PDU that is not a command was received: it is due, or it is kept as `held` until it is.
    pub(crate) fn consume(
        &mut self,
        cx: &mut Cx<'_>,
        session: SessionId,
        sn: Serial,
        immediate: bool,
        held: Held,
    ) {
        let Some(s) = self.sessions.get_mut(session) else { return };
        match s.admit(sn, immediate) {
            Admit::Due if !immediate => {
                s.exp_cmd_sn = s.exp_cmd_sn.next();
                self.deliver_held(cx, session);
            }
            Admit::Hold => {
                if let Held::Pdu(_, _, data) = &held {
                    s.held_bytes += data.len();
                }
                s.held.push((sn, held));
            }
            _ => {}
        }
    }

    /// Delivers everything whose number is due now.
    pub(crate) fn deliver_held(&mut self, cx: &mut Cx<'_>, session: SessionId) {
        loop {
            let Some(s) = self.sessions.get_mut(session) else { return };
            if s.held.is_empty() && s.barriers.is_empty() {
                return;
            }
            match s.next_held() {
                Some(Held::Task(task)) => self.start_task(cx, task),
                Some(Held::Pdu(conn, request, data)) => self.deliver(cx, conn, request, data),
                Some(Held::Gone) => {}
                None => break,
            }
        }
        self.pass_barriers(cx, session);
    }

    /// A command whose turn has come.
    fn start_task(&mut self, cx: &mut Cx<'_>, id: TaskId) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        let Some(s) = self.sessions.get_mut(task.session) else { return };
        if !task.immediate {
            s.active += 1;
        }
        task.state = TaskState::Gathering;
        let len = task.write.len();
        if len > 0 {
            let all = len as usize;
            if s.waiting.is_empty() && s.write_bytes + all <= self.config.session_write_bytes_max {
                task.write.granted = len;
                task.budget = all;
            } else {
                task.budget = task.write.unasked() as usize;
                task.waits_for_room = true;
                s.waiting.push_back(id);
            }
            s.write_bytes += task.budget;
        }
        self.progress(cx, id);
    }

    /// Does what a command's data allows: run it, fail it, or ask for more.
    pub(crate) fn progress(&mut self, cx: &mut Cx<'_>, id: TaskId) {
        let Some(task) = self.tasks.get_mut(id).filter(|t| t.state == TaskState::Gathering) else { return };
        if let Some(fault) = task.write.failed() {
            let reply = fault_reply(fault);
            task.state = TaskState::Executing;
            self.task_done(cx, id, reply);
            return;
        }
        if task.write.complete() {
            task.state = TaskState::Executing;
            let mut command = std::mem::take(&mut task.command);
            command.data_out = task.write.take();
            self.actions.push_back(Action::Execute {
                task: id,
                session: task.session,
                lun: task.lun,
                command,
            });
            return;
        }
        self.ask_for_data(cx, id);
    }

    /// Sends the R2Ts that may go out.
    fn ask_for_data(&mut self, cx: &Cx<'_>, id: TaskId) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        let Some(s) = self.sessions.get(task.session) else { return };
        let p = &s.info.params;
        let Some(conn) = self.conns.get_mut(task.conn).filter(|c| c.phase == Phase::Full) else { return };
        let outstanding = u32::from(p.max_outstanding_r2t).min(OUTSTANDING_R2T_MAX);
        let mut asked = false;
        while let Some((ttt, ask)) = task.write.ask(p.max_burst_len, outstanding, |n| transfer_tag(id, n)) {
            let mut bhs = [0; 48];
            r2t(task.lun, task.itt, ttt, ask).encode(&mut bhs);
            conn.tx.push(Out::whole(bhs, Payload::None, conn.stat_sn));
            asked = true;
        }
        if asked {
            let (conn, session) = (task.conn, task.session);
            self.announce(conn);
            self.watch_data(cx, session);
        }
    }

    /// The header of a Data-Out: decides where its data goes.
    pub(crate) fn data_out_header(&mut self, id: ConnId, pdu: &DataOut) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Some(s) = conn.session.and_then(|s| self.sessions.get_mut(s)) else { return };
        let recovers = s.recovery_level() > 0;
        // Data of a command that is over or was aborted is still under way now and then: it goes nowhere, silently.
        let Some(&task_id) = s.tasks.get(&pdu.itt.0) else { return };
        let Some(task) = self.tasks.get_mut(task_id) else { return };
        if task.conn != id || !matches!(task.state, TaskState::Held | TaskState::Gathering) {
            return;
        }
        if !pdu.ttt.is_reserved() && pdu.lun != task.lun {
            task.write.fail(Fault::WrongAmount);
        }
        if let Take::Store(at) = task.write.begin(pdu, recovers) {
            conn.rx.sink = Sink::Task { task: task_id, at };
        }
    }

    /// A whole Data-Out.
    pub(crate) fn data_out_pdu(
        &mut self,
        cx: &mut Cx<'_>,
        id: ConnId,
        pdu: &DataOut,
        sink: Sink,
        intact: bool,
    ) {
        let Some(conn) = self.conns.get(id) else { return };
        let bhs = *conn.rx.bhs();
        if !intact {
            self.reject(id, &bhs, RejectReason::DataDigestError);
        }
        let Some(s) = self.conns.get(id).and_then(|c| c.session).and_then(|s| self.sessions.get_mut(s))
        else {
            return;
        };
        let recovers = s.recovery_level() > 0;
        let Some(&task_id) = s.tasks.get(&pdu.itt.0) else { return };
        let Some(task) = self.tasks.get_mut(task_id).filter(|t| t.conn == id) else { return };
        let stored = intact && matches!(sink, Sink::Task { task, .. } if task == task_id);
        if stored {
            s.info.stats.bytes_in += u64::from(pdu.data_len);
        } else if !intact {
            task.write.lost(recovers);
        }
        task.last_data = cx.now;
        task.write.end(pdu, stored);
        self.progress(cx, task_id);
    }

    /// A command ended.
    pub fn task_done(&mut self, cx: &mut Cx<'_>, id: TaskId, reply: Reply) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        match task.state {
            TaskState::Executing => {}
            TaskState::Aborting => {
                self.release_task(cx, id);
                return;
            }
            _ => return,
        }
        if self.conns.get(task.conn).is_some_and(|c| c.phase == Phase::Full) {
            self.send_reply(id, reply);
            self.release_task(cx, id);
            return;
        }
        let recovers =
            self.sessions.get(task.session).is_some_and(|s| s.recovery_level() >= 2 && s.life != Life::Down);
        if recovers {
            task.reply = Some(Box::new(reply));
            task.state = TaskState::Replied;
        } else {
            self.release_task(cx, id);
        }
    }

    /// Queues the PDUs of a reply.
    pub(crate) fn send_reply(&mut self, id: TaskId, reply: Reply) {
        let Some(task) = self.tasks.get(id) else { return };
        let Some(conn) = self.conns.get_mut(task.conn) else { return };
        let Some(s) = self.sessions.get_mut(task.session) else { return };
        s.info.stats.responses += 1;
        let expected = task.expected_in.max(task.expected_out);
        let residual = Residual::of(expected, reply.transfer_len);
        let payload = match reply.data_in {
            DataIn::None => Payload::None,
            DataIn::Bytes(b) => Payload::Bytes(b),
            DataIn::Bufs(b) => Payload::Bufs(b),
        };
        let total = u32::try_from(payload.len()).unwrap_or(u32::MAX).min(task.expected_in);
        // RFC 7143 11.7.3: status travels in Data-In only where it is GOOD or CONDITION MET and has no sense data.
        let alone =
            total > 0 && reply.sense.is_none() && matches!(reply.status, Status::Good | Status::ConditionMet);
        if total > 0 {
            let status = alone.then_some((reply.status as u8, residual));
            let max_burst = conn.format.max_burst;
            let plan = Plan { itt: task.itt, total, max_burst, at: 0, end: total, data_sn: 0, status };
            let stat_sn = if alone { conn.next_stat_sn() } else { conn.stat_sn };
            conn.tx.push(Out { shape: Shape::Data(plan), payload, stat_sn, keep: conn.keeps, plain: false });
        }
        if !alone {
            let sense = reply.sense.filter(|_| reply.status == Status::CheckCondition);
            let data = sense.map_or(Payload::None, |sense| {
                let mut data = (sense.len() as u16).to_be_bytes().to_vec();
                data.extend_from_slice(&sense);
                data.truncate(conn.format.max_segment as usize);
                Payload::Bytes(data)
            });
            let sent = if total > 0 { segments_of(total, conn.format) } else { 0 };
            let pdu = ScsiResponse {
                response: ScsiResponseCode::Completed,
                status: reply.status as u8,
                itt: task.itt,
                snack_tag: 0,
                sn: Conn::no_numbers(),
                exp_data_sn: Serial(sent.wrapping_add(task.write.r2ts())),
                bidi_residual: Residual::None,
                residual,
                data_len: data.len() as u32,
            };
            let conn = task.conn;
            self.reply(conn, &Response::Scsi(pdu), data);
        } else {
            let conn = task.conn;
            self.announce(conn);
        }
    }

    /// The tasks of a session that satisfy `which`.
    pub(crate) fn tasks_of(&self, session: SessionId, which: impl Fn(&Task) -> bool) -> Vec<TaskId> {
        let Some(s) = self.sessions.get(session) else { return Vec::new() };
        s.tasks.values().copied().filter(|t| self.tasks.get(*t).is_some_and(&which)).collect()
    }

    /// Aborts a task; true where it is gone already, otherwise it is when the engine says so.
    pub(crate) fn abort_task(&mut self, cx: &mut Cx<'_>, id: TaskId) -> bool {
        let Some(task) = self.tasks.get_mut(id) else { return true };
        match task.state {
            TaskState::Executing => {
                task.state = TaskState::Aborting;
                self.actions.push_back(Action::AbortTask { task: id });
                false
            }
            TaskState::Aborting => false,
            TaskState::Arriving | TaskState::Held | TaskState::Gathering | TaskState::Replied => {
                self.release_task(cx, id);
                true
            }
        }
    }

    /// Nothing of an aborted command runs any more.
    pub fn task_aborted(&mut self, cx: &mut Cx<'_>, id: TaskId) {
        if self.tasks.get(id).is_some_and(|t| t.state == TaskState::Aborting) {
            self.release_task(cx, id);
        }
    }

    /// Frees a task and lets everybody who waited for that go on.
    fn release_task(&mut self, cx: &mut Cx<'_>, id: TaskId) {
        let Some(task) = self.tasks.remove(id) else { return };
        let Some(s) = self.sessions.get_mut(task.session) else { return };
        if s.tasks.get(&task.itt.0) == Some(&id) {
            s.tasks.remove(&task.itt.0);
            s.info.tasks -= 1;
        }
        if task.immediate {
            s.immediate -= 1;
        } else if task.state == TaskState::Held {
            for (_, held) in &mut s.held {
                if matches!(held, Held::Task(t) if *t == id) {
                    *held = Held::Gone;
                }
            }
        } else {
            s.active -= 1;
        }
        s.write_bytes -= task.budget;
        if task.waits_for_room {
            s.waiting.retain(|t| *t != id);
        }
        if !s.waiting.is_empty() && s.life == Life::Up {
            self.grant_room(cx, task.session);
        }
        self.task_gone(cx, task.session, id);
    }

    /// Gives room to commands that wait for it, in their order.
    fn grant_room(&mut self, cx: &mut Cx<'_>, session: SessionId) {
        loop {
            let Some(s) = self.sessions.get_mut(session) else { return };
            let Some(&id) = s.waiting.front() else { return };
            let Some(task) = self.tasks.get_mut(id) else {
                s.waiting.pop_front();
                continue;
            };
            let more = (task.write.len() as usize).saturating_sub(task.budget);
            if s.write_bytes + more > self.config.session_write_bytes_max {
                return;
            }
            s.waiting.pop_front();
            s.write_bytes += more;
            task.budget += more;
            task.waits_for_room = false;
            task.write.granted = task.write.len();
            self.progress(cx, id);
        }
    }

    /// Rejects the current PDU and gives the connection up.
    pub(crate) fn protocol_error(
        &mut self,
        cx: &mut Cx<'_>,
        id: ConnId,
        reason: RejectReason,
        why: &'static str,
    ) {
        let Some(conn) = self.conns.get(id) else { return };
        let bhs = *conn.rx.bhs();
        self.reject(id, &bhs, reason);
        self.end_conn(cx, id, Ending::Protocol(why));
    }
}

/// R2Ts that are out for one command, whatever was negotiated: their numbers must differ in a tag's 6 bits.
const OUTSTANDING_R2T_MAX: u32 = 32;

/// Tags of R2Ts. A command is found by its own tag; this keeps R2Ts apart from each other and from those of commands
/// before that had the same tag: 20 bits of slot, 6 of its generation, 6 of the R2T's number. 0xffffffff does not
/// come out, slots being far fewer than 2^20.
fn transfer_tag(id: TaskId, r2t_sn: u32) -> Tag {
    let (index, generation) = crate::slots::SlotId::parts(id);
    Tag((index as u32 & 0xf_ffff) | ((generation & 0x3f) << 20) | (r2t_sn << 26))
}

/// The CDB's length by its operation code (SPC-4 4.2.5.1), at most what is there.
fn cdb_len(cdb: &[u8; 16], rest: usize) -> usize {
    match cdb[0] {
        0x00..=0x1f => 6,
        0x20..=0x5f => 10,
        0x7e => (usize::from(u16::from_be_bytes([cdb[2], cdb[3]])) + 4).clamp(16, 16 + rest),
        0x7f => (usize::from(cdb[7]) + 8).clamp(10, 16 + rest),
        0xa0..=0xbf => 12,
        _ => 16,
    }
}

fn new_task(s: &Session, conn: ConnId, pdu: &ScsiCommand, ahs: &Ahs<'_>) -> Task {
    let expected_out = if pdu.write { pdu.expected_len } else { 0 };
    let expected_in = match (pdu.read, pdu.write) {
        (true, false) => pdu.expected_len,
        (true, true) => ahs.bidi_read_len.unwrap_or(0),
        _ => 0,
    };
    let p = &s.info.params;
    let mut write = WriteData::new(expected_out, p.first_burst_len, !pdu.final_);
    if expected_out > TRANSFER_BYTES_MAX {
        write.fail(Fault::TooLong);
    } else if pdu.read && pdu.write {
        write.fail(Fault::Bidirectional);
    } else if !pdu.final_ && p.initial_r2t {
        write.fail(Fault::UnexpectedUnsolicited);
    }
    let len = cdb_len(&pdu.cdb, ahs.cdb_rest.len());
    let mut cdb: smallvec::SmallVec<[u8; 16]> = smallvec::SmallVec::from_slice(&pdu.cdb[..len.min(16)]);
    cdb.extend_from_slice(&ahs.cdb_rest[..len.saturating_sub(16)]);
    Task {
        id: TaskId(0),
        session: s.id,
        conn,
        itt: pdu.itt,
        lun: pdu.lun,
        cmd_sn: pdu.cmd_sn,
        immediate: pdu.immediate,
        state: TaskState::Arriving,
        command: scsi::Command {
            cdb,
            attribute: match pdu.attribute {
                TaskAttribute::Untagged => Attribute::Untagged,
                TaskAttribute::Simple => Attribute::Simple,
                TaskAttribute::Ordered => Attribute::Ordered,
                TaskAttribute::HeadOfQueue => Attribute::HeadOfQueue,
                TaskAttribute::Aca => Attribute::Aca,
            },
            expected_in,
            expected_out,
            data_out: block::Bufs::new(),
        },
        write,
        waits_for_room: false,
        budget: 0,
        expected_in,
        expected_out,
        reply: None,
        last_data: base::Mono::ZERO,
    }
}

/// Whether the immediate data of a command is as agreed (RFC 7143 13.11, 13.14); fails the command where not.
fn accepts_immediate(s: &Session, pdu: &ScsiCommand, write: &mut WriteData) -> bool {
    if pdu.data_len == 0 {
        return write.healthy();
    }
    if !s.info.params.immediate_data {
        write.fail(Fault::UnexpectedUnsolicited);
    } else if pdu.data_len > s.info.params.first_burst_len.min(pdu.expected_len) {
        write.fail(Fault::WrongAmount);
    }
    write.healthy()
}

/// CHECK CONDITION for data that went wrong on the way (RFC 7143 11.4.7.2).
fn fault_reply(fault: Fault) -> Reply {
    const ABORTED_COMMAND: u8 = 0x0b;
    const ILLEGAL_REQUEST: u8 = 0x05;
    let (key, asc, ascq) = match fault {
        Fault::UnexpectedUnsolicited => (ABORTED_COMMAND, 0x0c, 0x0c),
        Fault::WrongAmount => (ABORTED_COMMAND, 0x0c, 0x0d),
        Fault::Lost => (ABORTED_COMMAND, 0x47, 0x05),
        // INVALID FIELD IN CDB; INVALID FIELD IN COMMAND INFORMATION UNIT.
        Fault::TooLong => (ILLEGAL_REQUEST, 0x24, 0x00),
        Fault::Bidirectional => (ILLEGAL_REQUEST, 0x0e, 0x03),
    };
    let sense = vec![0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0];
    Reply { status: Status::CheckCondition, sense: Some(sense), data_in: DataIn::None, transfer_len: 0 }
}
