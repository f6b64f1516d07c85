//! What comes from the target, checked.

use base::Mono;
use iscsi::digest;
use iscsi::pdu::{
    BHS_LEN, DIGEST_LEN, DataIn, Frame, LoginStage, NopOut, R2t, Residual, Response, ScsiResponse, Tag,
    TargetNumbers, TmfFunction, TmfResponse,
};
use iscsi::serial::Serial;

use super::{End, Initiator, Pending, Phase, Settings, Told, defaults};
use crate::net::Net;
use crate::{Failure, fail};

impl Initiator {
    /// Takes bytes from the link.
    pub fn receive(&mut self, now: Mono, net: &mut Net, bytes: &[u8]) -> Result<(), Failure> {
        self.rx.extend_from_slice(bytes);
        while let Some(bhs) = self.rx.first_chunk::<BHS_LEN>().copied() {
            let frame = Frame::of(&bhs);
            let s = self.settings;
            let total = frame.wire_len(s.header_digest, s.data_digest);
            if frame.data_len > s.in_segment {
                fail!(
                    "initiator {}: a data segment of {} bytes, {} allowed",
                    self.index,
                    frame.data_len,
                    s.in_segment
                );
            }
            if self.rx.len() < total {
                break;
            }
            let pdu: Vec<u8> = self.rx.drain(..total).collect();
            let start = BHS_LEN + if s.header_digest { DIGEST_LEN } else { 0 };
            if s.header_digest && pdu[BHS_LEN..start] != digest::header(&bhs, &[]) {
                fail!("initiator {}: a wrong header digest", self.index);
            }
            let data = &pdu[start..start + frame.data_len as usize];
            if s.data_digest && !data.is_empty() && pdu[total - DIGEST_LEN..] != digest::data([data]) {
                fail!("initiator {}: a wrong data digest", self.index);
            }
            let response = match Response::parse(&bhs) {
                Ok(r) => r,
                Err(e) => fail!("initiator {}: {e}", self.index),
            };
            self.respond(now, net, response, data)
                .map_err(|e| Failure(format!("initiator {}: {e}", self.index)))?;
            if self.link().is_none() {
                break;
            }
        }
        self.flush(now, net);
        Ok(())
    }

    fn respond(&mut self, now: Mono, net: &mut Net, response: Response, data: &[u8]) -> Result<(), Failure> {
        if let (Phase::Login { .. }, Response::Login(l)) = (self.phase, &response) {
            if !l.status.is_success() {
                fail!("the login was refused: {}", l.status.text());
            }
            self.exp_stat_sn = l.sn.stat_sn.next();
            self.max_cmd_sn = l.sn.max_cmd_sn;
            return self.logged_in(l.transit, data);
        }
        if matches!(self.phase, Phase::Login { .. }) {
            fail!("{response:?} during the login");
        }
        match response {
            Response::DataIn(d) => self.data_in(&d, data),
            Response::Scsi(r) => self.scsi_response(&r, data),
            Response::R2t(r) => self.r2t(&r),
            Response::Tmf(r) => {
                self.status(&r.sn)?;
                self.managed(r.itt, r.response)
            }
            Response::NopIn(n) => {
                if n.itt.is_reserved() {
                    self.numbers(&n.sn)?;
                    self.answer_nop(n.ttt, n.lun);
                    Ok(())
                } else {
                    fail!("a NOP-In that answers nothing: {n:?}")
                }
            }
            Response::Logout(l) => {
                self.status(&l.sn)?;
                if !matches!(self.phase, Phase::Leaving { .. }) {
                    fail!("a logout response without a request");
                }
                self.drop_link(now, net);
                Ok(())
            }
            Response::Async(a) => self.status(&a.sn),
            Response::Reject(r) => {
                if !self.link().is_some_and(|l| net.was_flipped(l)) {
                    fail!("rejected: {r:?}");
                }
                self.drop_link(now, net);
                Ok(())
            }
            other => fail!("{other:?} was not asked for"),
        }
    }

    fn logged_in(&mut self, transit: Option<LoginStage>, data: &[u8]) -> Result<(), Failure> {
        let Phase::Login { link, .. } = self.phase else { return Ok(()) };
        let mut agreed = Settings { in_segment: self.offer.in_segment, ..defaults() };
        let text = String::from_utf8_lossy(data).into_owned();
        for pair in text.split('\0').filter(|p| !p.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else { fail!("{pair:?} in a login response") };
            let number =
                || value.parse::<u32>().map_err(|_| Failure(format!("{pair:?} in a login response")));
            match key {
                // RFC 7143 6.2: the key does not matter for what was agreed on before (13.14: no unsolicited data).
                _ if value == "Irrelevant" => {}
                "HeaderDigest" => agreed.header_digest = value == "CRC32C",
                "DataDigest" => agreed.data_digest = value == "CRC32C",
                "InitialR2T" => agreed.initial_r2t = value == "Yes",
                "ImmediateData" => agreed.immediate = value == "Yes",
                "FirstBurstLength" => agreed.first_burst = number()?,
                "MaxBurstLength" => agreed.max_burst = number()?,
                "MaxRecvDataSegmentLength" => agreed.out_segment = number()?,
                _ => {}
            }
        }
        if transit != Some(LoginStage::FullFeature) {
            fail!("the login does not end after one exchange: {text:?}");
        }
        if agreed.initial_r2t && !agreed.immediate {
            agreed.first_burst = 0;
        }
        if agreed.first_burst > agreed.max_burst || agreed.max_burst > self.offer.max_burst {
            fail!(
                "bursts of {} and {} were agreed on, {} offered",
                agreed.first_burst,
                agreed.max_burst,
                self.offer.max_burst
            );
        }
        if agreed.header_digest && !self.offer.header_digest || agreed.data_digest && !self.offer.data_digest
        {
            fail!("a digest that was not offered");
        }
        if agreed.initial_r2t != (self.offer.initial_r2t) && !agreed.initial_r2t {
            fail!("InitialR2T=No against an offer of Yes");
        }
        self.settings = agreed;
        self.phase = Phase::Up { link };
        self.told.push(Told::Up);
        self.greeted.clear();
        for (token, unit) in std::mem::take(&mut self.limbo) {
            self.told.push(Told::Ended { token, unit, end: End::Resolved });
        }
        Ok(())
    }

    /// Takes the numbers of a PDU without status.
    fn numbers(&mut self, sn: &TargetNumbers) -> Result<(), Failure> {
        if self.cmd_sn.precedes(sn.exp_cmd_sn) {
            fail!("ExpCmdSN {} where {} is the next to be sent", sn.exp_cmd_sn, self.cmd_sn);
        }
        if sn.max_cmd_sn.precedes(sn.exp_cmd_sn.minus(1)) {
            return Ok(());
        }
        if self.max_cmd_sn.precedes(sn.max_cmd_sn) {
            self.max_cmd_sn = sn.max_cmd_sn;
        }
        Ok(())
    }

    /// Takes the numbers of a PDU with status: StatSN is the next (RFC 7143 4.2.2.2).
    fn status(&mut self, sn: &TargetNumbers) -> Result<(), Failure> {
        if sn.stat_sn != self.exp_stat_sn {
            fail!("StatSN {} where {} is next", sn.stat_sn, self.exp_stat_sn);
        }
        self.exp_stat_sn = sn.stat_sn.next();
        self.numbers(sn)
    }

    fn answer_nop(&mut self, ttt: Tag, lun: u64) {
        if ttt.is_reserved() {
            return;
        }
        let nop = NopOut {
            immediate: true,
            lun,
            itt: Tag::RESERVED,
            ttt,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            data_len: 0,
        };
        let mut bhs = [0; BHS_LEN];
        nop.encode(&mut bhs);
        self.put(&bhs, &[]);
    }

    fn data_in(&mut self, d: &DataIn, data: &[u8]) -> Result<(), Failure> {
        if d.status.is_some() {
            self.status(&d.sn)?;
        } else {
            self.numbers(&d.sn)?;
        }
        let Some(t) = self.tasks.get_mut(&d.itt.0) else {
            fail!("Data-In for tag {:#x}, which has no command: answered or aborted before", d.itt.0);
        };
        if d.data_sn != Serial(t.data_sn) || d.offset as usize != t.got.len() {
            fail!("Data-In {} at {} where {} at {} is next", d.data_sn, d.offset, t.data_sn, t.got.len());
        }
        t.data_sn += 1;
        t.got.extend_from_slice(data);
        if t.got.len() > t.ask.read as usize {
            fail!("{} bytes of data, {} asked for", t.got.len(), t.ask.read);
        }
        if let Some(status) = d.status {
            let missing = t.ask.read as usize - t.got.len();
            check_residual(d.residual, missing)?;
            return self.ended(d.itt.0, status, &[]);
        }
        Ok(())
    }

    fn scsi_response(&mut self, r: &ScsiResponse, data: &[u8]) -> Result<(), Failure> {
        self.status(&r.sn)?;
        let Some(t) = self.tasks.get(&r.itt.0) else {
            fail!("a response for tag {:#x}, which has no command: answered or aborted before", r.itt.0);
        };
        if t.ask.read > 0 && r.status == 0 {
            check_residual(r.residual, t.ask.read as usize - t.got.len())?;
        }
        let sense = match data {
            [] => &[],
            [a, b, rest @ ..] if usize::from(u16::from_be_bytes([*a, *b])) <= rest.len() => rest,
            _ => fail!("a response with {} bytes of sense data that do not add up", data.len()),
        };
        if (r.status == 0x02) == sense.is_empty() {
            fail!("status {:#04x} with {} bytes of sense data", r.status, sense.len());
        }
        self.ended(r.itt.0, r.status, sense)
    }

    fn ended(&mut self, itt: u32, status: u8, sense: &[u8]) -> Result<(), Failure> {
        let Some(t) = self.tasks.remove(&itt) else { return Ok(()) };
        let end = End::Status { status, sense: sense.to_vec(), data: t.got };
        self.told.push(Told::Ended { token: t.ask.token, unit: t.ask.unit, end });
        Ok(())
    }

    fn r2t(&mut self, r: &R2t) -> Result<(), Failure> {
        self.numbers(&r.sn)?;
        let max_burst = self.settings.max_burst;
        let Some(t) = self.tasks.get_mut(&r.itt.0) else {
            fail!("an R2T for tag {:#x}, which has no command: answered or aborted before", r.itt.0);
        };
        let end = u64::from(r.offset) + u64::from(r.desired_len);
        if r.desired_len > max_burst || end > t.ask.data.len() as u64 {
            fail!(
                "an R2T for {} bytes at {} of {}, bursts of {max_burst}",
                r.desired_len,
                r.offset,
                t.ask.data.len()
            );
        }
        if r.r2t_sn != Serial(t.r2t_sn) {
            fail!("R2TSN {} where {} is next", r.r2t_sn, t.r2t_sn);
        }
        t.r2t_sn += 1;
        self.data_out(r.itt.0, r.ttt, r.offset, r.desired_len);
        Ok(())
    }

    fn managed(&mut self, itt: Tag, response: TmfResponse) -> Result<(), Failure> {
        let Some((m, _)) = self.managing.remove(&itt.0) else {
            fail!("a task management response for tag {:#x}, which has no request", itt.0);
        };
        let over: Vec<u32> = match (m.function, response) {
            // Function Complete and Task Does Not Exist: no response will come any more (RFC 7143 11.6.1).
            (TmfFunction::AbortTask, TmfResponse::Complete | TmfResponse::NoTask) => {
                m.reference.into_iter().filter(|r| self.tasks.contains_key(r)).collect()
            }
            (TmfFunction::TargetWarmReset, TmfResponse::Complete) => self.before(m.before, |_| true),
            (_, TmfResponse::Complete) => self.before(m.before, |t| t.ask.unit == m.unit),
            (function, response) => fail!("{function:?} was answered with {response:?}"),
        };
        for itt in over {
            if let Some(t) = self.tasks.remove(&itt) {
                self.told.push(Told::Ended { token: t.ask.token, unit: t.ask.unit, end: End::Resolved });
            }
        }
        if response == TmfResponse::Complete {
            self.told.push(Told::Managed { function: m.function, unit: m.unit });
        }
        Ok(())
    }

    /// The commands that were sent before `sn` and for which `which` holds.
    fn before(&self, sn: Serial, which: impl Fn(&Pending) -> bool) -> Vec<u32> {
        self.tasks.iter().filter(|(_, t)| t.cmd_sn.precedes(sn) && which(t)).map(|(&itt, _)| itt).collect()
    }

    /// Whether a task management function waits that concerns more than one task: commands sent now might or might not be
    /// among them.
    pub fn is_managing(&self) -> bool {
        self.managing.values().any(|m| m.0.function != TmfFunction::AbortTask)
    }
}

fn check_residual(residual: Residual, missing: usize) -> Result<(), Failure> {
    let want = if missing == 0 { Residual::None } else { Residual::Underflow(missing as u32) };
    if residual != want {
        fail!("residual {residual:?} where {missing} bytes are missing");
    }
    Ok(())
}
