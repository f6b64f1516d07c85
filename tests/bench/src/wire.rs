//! The two wires of the load generator: the bare server's 48 bytes, and iSCSI.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use iscsi::pdu::{
    BHS_LEN, Bhs, DataOut, Frame, LoginRequest, LoginStage, NopOut, Response, ScsiCommand, Tag, TaskAttribute,
};
use iscsi::serial::Serial;

use crate::bare;
use crate::load::{Out, Pattern, Wire};

/// The bare server's.
pub struct Bare;

impl Wire for Bare {
    fn command(&mut self, out: &mut Out, pattern: &Pattern, tag: u32, offset: u64) {
        let op = if pattern.write { bare::WRITE } else { bare::READ };
        let data = if pattern.write { pattern.bytes as usize } else { 0 };
        out.push(&bare::request(op, tag, offset, pattern.bytes), data);
    }

    fn reply(&mut self, _: &mut Out, header: &[u8; 48]) -> Result<(usize, Option<u32>)> {
        Ok((bare::word(header, 16) as usize, Some(bare::word(header, 4))))
    }
}

/// An iSCSI session in full feature phase.
pub struct Iscsi {
    lun: u64,
    block: u32,
    cmd_sn: Serial,
    exp_stat_sn: Serial,
    max_cmd_sn: Serial,
    /// What the target takes in one data segment.
    segment: u32,
    first_burst: u32,
    max_burst: u32,
    initial_r2t: bool,
    immediate: bool,
    bytes: u32,
}

/// A login's keys and what this side asks for: what libiscsi asks for too.
const KEYS: &[(&str, &str)] = &[
    ("SessionType", "Normal"),
    ("HeaderDigest", "None"),
    ("DataDigest", "None"),
    ("InitialR2T", "No"),
    ("ImmediateData", "Yes"),
    ("MaxBurstLength", "262144"),
    ("FirstBurstLength", "262144"),
    ("MaxRecvDataSegmentLength", "262144"),
    ("MaxOutstandingR2T", "1"),
    ("MaxConnections", "1"),
    ("DefaultTime2Wait", "2"),
    ("DefaultTime2Retain", "0"),
    ("DataPDUInOrder", "Yes"),
    ("DataSequenceInOrder", "Yes"),
    ("ErrorRecoveryLevel", "0"),
];

impl Iscsi {
    /// Connects and logs in to `target`, as the initiator number `who`, for unit `lun`; also its size in bytes.
    pub fn login(portal: SocketAddr, target: &str, lun: u32, who: u32) -> Result<(TcpStream, Iscsi, u64)> {
        let mut socket = TcpStream::connect(portal).with_context(|| format!("connect to {portal}"))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut session = Iscsi {
            lun: iscsi::lun::encode(lun).context("no such LUN number")?,
            block: 512,
            cmd_sn: Serial(1),
            exp_stat_sn: Serial(0),
            max_cmd_sn: Serial(1),
            segment: 8192,
            first_burst: 65536,
            max_burst: 262_144,
            initial_r2t: true,
            immediate: true,
            bytes: 0,
        };
        let name = format!("iqn.2026-11.bench.plinth:load-{who}");
        session.negotiate(&mut socket, &name, target, who)?;
        let size = session.capacity(&mut socket)?;
        socket.set_read_timeout(None)?;
        Ok((socket, session, size))
    }

    fn negotiate(&mut self, socket: &mut TcpStream, name: &str, target: &str, who: u32) -> Result<()> {
        let mut text = format!("InitiatorName={name}\0TargetName={target}\0");
        for (k, v) in KEYS {
            text += &format!("{k}={v}\0");
        }
        let mut isid = [0x80, 0, 0, 0, 0, 0];
        isid[2..6].copy_from_slice(&who.to_be_bytes());
        for _ in 0..8 {
            let request = LoginRequest {
                continues: false,
                stage: LoginStage::Operational,
                transit: Some(LoginStage::FullFeature),
                version_max: 0,
                version_min: 0,
                isid,
                tsih: 0,
                itt: Tag(0),
                cid: 0,
                cmd_sn: self.cmd_sn,
                exp_stat_sn: self.exp_stat_sn,
                data_len: text.len() as u32,
            };
            let mut bhs = [0; BHS_LEN];
            request.encode(&mut bhs);
            send(socket, &bhs, text.as_bytes())?;
            let (response, data) = receive(socket)?;
            let Response::Login(l) = response else { bail!("a login was answered by {response:?}") };
            if !l.status.is_success() {
                bail!("login to {target} refused: {}", l.status.text());
            }
            self.exp_stat_sn = l.sn.stat_sn.next();
            self.max_cmd_sn = l.sn.max_cmd_sn;
            self.take_keys(&data)?;
            if l.transit == Some(LoginStage::FullFeature) {
                return Ok(());
            }
            text.clear();
        }
        bail!("the login to {target} does not end")
    }

    fn take_keys(&mut self, data: &[u8]) -> Result<()> {
        for pair in data.split(|&b| b == 0).filter(|p| !p.is_empty()) {
            let pair = std::str::from_utf8(pair)?;
            let (key, value) = pair.split_once('=').with_context(|| format!("no '=' in {pair:?}"))?;
            match key {
                "MaxRecvDataSegmentLength" => self.segment = value.parse()?,
                "FirstBurstLength" => self.first_burst = value.parse()?,
                "MaxBurstLength" => self.max_burst = value.parse()?,
                "InitialR2T" => self.initial_r2t = value == "Yes",
                "ImmediateData" => self.immediate = value == "Yes",
                _ => {}
            }
        }
        Ok(())
    }

    /// Clears the unit attentions and asks for the size.
    fn capacity(&mut self, socket: &mut TcpStream) -> Result<u64> {
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[13]) = (0x9e, 0x10, 32);
        for _ in 0..8 {
            let mut bhs = [0; BHS_LEN];
            self.scsi(Tag(0), cdb, 32, 0, false).encode(&mut bhs);
            send(socket, &bhs, &[])?;
            let mut capacity = None;
            loop {
                let (response, data) = receive(socket)?;
                match response {
                    Response::DataIn(d) => {
                        self.numbers(&d.sn, d.status.is_some());
                        capacity = data.get(..12).map(<[u8]>::to_vec);
                        if d.status == Some(0) {
                            break;
                        }
                    }
                    Response::Scsi(r) => {
                        self.numbers(&r.sn, true);
                        if r.status != 0 {
                            capacity = None;
                        }
                        break;
                    }
                    other => bail!("READ CAPACITY was answered by {other:?}"),
                }
            }
            if let Some(c) = capacity {
                let last = u64::from_be_bytes(c[..8].try_into()?);
                self.block = u32::from_be_bytes(c[8..12].try_into()?);
                return Ok((last + 1) * u64::from(self.block));
            }
        }
        bail!("the unit does not say its size")
    }

    fn numbers(&mut self, sn: &iscsi::pdu::TargetNumbers, status: bool) {
        if status {
            self.exp_stat_sn = sn.stat_sn.next();
        }
        if self.max_cmd_sn.precedes(sn.max_cmd_sn) {
            self.max_cmd_sn = sn.max_cmd_sn;
        }
    }

    fn scsi(&mut self, itt: Tag, cdb: [u8; 16], expected: u32, data_len: u32, write: bool) -> ScsiCommand {
        let cmd_sn = self.cmd_sn;
        self.cmd_sn = cmd_sn.next();
        ScsiCommand {
            immediate: false,
            final_: true,
            read: !write,
            write,
            attribute: TaskAttribute::Simple,
            priority: 0,
            lun: self.lun,
            itt,
            expected_len: expected,
            cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            cdb,
            ahs_len: 0,
            data_len,
        }
    }

    /// The Data-Out PDUs for `len` bytes at `offset` of a command.
    fn data_out(&self, out: &mut Out, itt: Tag, ttt: Tag, offset: u32, len: u32) {
        let (mut at, mut number) = (offset, 0);
        while at < offset + len {
            let n = self.segment.min(offset + len - at);
            let mut bhs = [0; BHS_LEN];
            DataOut {
                final_: at + n == offset + len,
                lun: self.lun,
                itt,
                ttt,
                exp_stat_sn: self.exp_stat_sn,
                data_sn: Serial(number),
                offset: at,
                data_len: n,
            }
            .encode(&mut bhs);
            out.push(&bhs, n as usize);
            at += n;
            number += 1;
        }
    }
}

impl Wire for Iscsi {
    fn command(&mut self, out: &mut Out, pattern: &Pattern, tag: u32, offset: u64) {
        self.bytes = pattern.bytes;
        let mut cdb = [0; 16];
        cdb[0] = if pattern.write { 0x8a } else { 0x88 };
        cdb[2..10].copy_from_slice(&(offset / u64::from(self.block)).to_be_bytes());
        cdb[10..14].copy_from_slice(&(pattern.bytes / self.block).to_be_bytes());
        let first = if self.initial_r2t { 0 } else { pattern.bytes.min(self.first_burst) };
        let with = match (pattern.write, self.immediate) {
            (true, true) => pattern.bytes.min(self.first_burst).min(self.segment),
            _ => 0,
        };
        let mut command = self.scsi(Tag(tag), cdb, pattern.bytes, with, pattern.write);
        let unsolicited = if pattern.write { first.saturating_sub(with) } else { 0 };
        command.final_ = unsolicited == 0;
        let mut bhs: Bhs = [0; BHS_LEN];
        command.encode(&mut bhs);
        out.push(&bhs, with as usize);
        if unsolicited > 0 {
            self.data_out(out, Tag(tag), Tag::RESERVED, with, unsolicited);
        }
    }

    fn reply(&mut self, out: &mut Out, header: &[u8; 48]) -> Result<(usize, Option<u32>)> {
        let frame = Frame::of(header);
        let data = frame.data_len as usize + frame.padding();
        match Response::parse(header)? {
            Response::DataIn(d) => {
                self.numbers(&d.sn, d.status.is_some());
                match d.status {
                    None => Ok((data, None)),
                    Some(0) => Ok((data, Some(d.itt.0))),
                    Some(s) => bail!("a read ended with status {s:#04x}"),
                }
            }
            Response::Scsi(r) => {
                self.numbers(&r.sn, true);
                if r.status != 0 {
                    bail!("a command ended with status {:#04x}", r.status);
                }
                Ok((data, Some(r.itt.0)))
            }
            Response::R2t(r) => {
                self.numbers(&r.sn, false);
                self.data_out(out, r.itt, r.ttt, r.offset, r.desired_len);
                Ok((data, None))
            }
            Response::NopIn(n) => {
                self.numbers(&n.sn, !n.itt.is_reserved());
                if !n.ttt.is_reserved() {
                    let mut bhs = [0; BHS_LEN];
                    NopOut {
                        immediate: true,
                        lun: n.lun,
                        itt: Tag::RESERVED,
                        ttt: n.ttt,
                        cmd_sn: self.cmd_sn,
                        exp_stat_sn: self.exp_stat_sn,
                        data_len: 0,
                    }
                    .encode(&mut bhs);
                    out.push(&bhs, 0);
                }
                Ok((data, None))
            }
            other => bail!("the target sent {other:?}"),
        }
    }

    fn window(&self) -> u32 {
        u32::try_from(self.max_cmd_sn.since(self.cmd_sn) + 1).unwrap_or(0)
    }
}

fn send(socket: &mut TcpStream, bhs: &Bhs, data: &[u8]) -> Result<()> {
    let mut bytes = bhs.to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    Ok(socket.write_all(&bytes)?)
}

fn receive(socket: &mut TcpStream) -> Result<(Response, Vec<u8>)> {
    let mut bhs = [0; BHS_LEN];
    socket.read_exact(&mut bhs).context("no answer from the target")?;
    let frame = Frame::of(&bhs);
    let mut data = vec![0; frame.data_len as usize + frame.padding()];
    socket.read_exact(&mut data)?;
    data.truncate(frame.data_len as usize);
    Ok((Response::parse(&bhs)?, data))
}
