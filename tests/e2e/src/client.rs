//! An initiator of bare bytes: small enough to say anything to a target, also what no proper initiator would.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Data that one Data-Out or immediate data carries at most: the default of MaxRecvDataSegmentLength.
const SEGMENT_BYTES: usize = 8192;

const NOP_OUT: u8 = 0x00;
const COMMAND: u8 = 0x01;
const LOGIN: u8 = 0x03;
const DATA_OUT: u8 = 0x05;
const NOP_IN: u8 = 0x20;
const RESPONSE: u8 = 0x21;
const LOGIN_RESPONSE: u8 = 0x23;
const DATA_IN: u8 = 0x25;
const R2T: u8 = 0x31;
const REJECT: u8 = 0x3f;
const IMMEDIATE: u8 = 0x40;

/// A PDU: its basic header segment, and its data without padding.
#[derive(Clone, Debug)]
pub struct Pdu {
    /// The header.
    pub head: [u8; 48],
    /// The data segment.
    pub data: Vec<u8>,
}

impl Pdu {
    /// An empty one.
    pub fn new(opcode: u8, flags: u8) -> Self {
        let mut head = [0; 48];
        head[0] = opcode;
        head[1] = flags;
        Self { head, data: Vec::new() }
    }

    /// Puts a number at a place of the header.
    pub fn set(mut self, at: usize, value: u32) -> Self {
        self.head[at..at + 4].copy_from_slice(&value.to_be_bytes());
        self
    }

    /// The number at a place of the header.
    pub fn get(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.head[at], self.head[at + 1], self.head[at + 2], self.head[at + 3]])
    }

    /// The opcode without the immediate bit.
    pub fn opcode(&self) -> u8 {
        self.head[0] & 0x3f
    }

    /// On the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut head = self.head;
        let length = u32::try_from(self.data.len()).unwrap_or(u32::MAX).to_be_bytes();
        head[5..8].copy_from_slice(&length[1..]);
        let mut bytes = head.to_vec();
        bytes.extend_from_slice(&self.data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Answer {
    /// The SCSI status.
    pub status: u8,
    /// Sense key, additional sense code and qualifier, if there is sense.
    pub sense: Option<(u8, u8, u8)>,
    /// What was read.
    pub data: Vec<u8>,
}

impl Answer {
    /// Demands status GOOD.
    pub fn good(self) -> Result<Vec<u8>> {
        ensure!(self.status == 0, "status {:#04x}, sense {:02x?}", self.status, self.sense);
        Ok(self.data)
    }
}

/// A session of one connection.
pub struct Client {
    stream: TcpStream,
    cmd_sn: u32,
    stat_sn: u32,
    tag: u32,
}

impl Client {
    /// Connects, and no more.
    pub fn connect(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))
            .with_context(|| format!("connecting to {to}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        Ok(Self { stream, cmd_sn: 1, stat_sn: 0, tag: 1 })
    }

    /// Connects and logs in. `initiator` also picks the ISID, so that each is a session of its own.
    pub fn login(to: SocketAddr, initiator: u32, target: &str) -> Result<Self> {
        let mut client = Self::connect(to)?;
        let name = format!("iqn.2026-11.org.plinth.e2e:{initiator}");
        let keys = [
            ("InitiatorName", name.as_str()),
            ("TargetName", target),
            ("SessionType", "Normal"),
            ("AuthMethod", "None"),
        ];
        client.login_step(initiator, 0x81, &keys)?;
        let keys = [
            ("HeaderDigest", "None"),
            ("DataDigest", "None"),
            ("ImmediateData", "Yes"),
            ("InitialR2T", "Yes"),
            ("MaxRecvDataSegmentLength", "262144"),
            ("MaxBurstLength", "262144"),
            ("FirstBurstLength", "65536"),
            ("MaxConnections", "1"),
            ("ErrorRecoveryLevel", "0"),
            ("DefaultTime2Wait", "0"),
            ("DefaultTime2Retain", "0"),
        ];
        client.login_step(initiator, 0x87, &keys)?;
        Ok(client)
    }

    /// One login request that asks for the next stage, and its answer.
    fn login_step(&mut self, initiator: u32, flags: u8, keys: &[(&str, &str)]) -> Result<()> {
        let id = initiator.to_be_bytes();
        let mut pdu =
            Pdu::new(LOGIN | IMMEDIATE, flags).set(16, 1).set(24, self.cmd_sn).set(28, self.stat_sn);
        pdu.head[8..14].copy_from_slice(&[0x80, id[0], id[1], id[2], 0, id[3]]);
        pdu.data = keys.iter().flat_map(|(key, value)| format!("{key}={value}\0").into_bytes()).collect();
        self.send(&pdu)?;
        let answer = self.receive()?;
        ensure!(
            answer.opcode() == LOGIN_RESPONSE,
            "opcode {:#04x} instead of a login response",
            answer.opcode()
        );
        let status = (answer.head[36], answer.head[37]);
        ensure!(status == (0, 0), "login refused with {status:02x?}");
        ensure!(answer.head[1] & 0x83 == flags & 0x83, "the target stays: flags {:#04x}", answer.head[1]);
        Ok(())
    }

    /// Sends bytes as they are.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("sending")
    }

    /// Sends a PDU.
    pub fn send(&mut self, pdu: &Pdu) -> Result<()> {
        self.send_bytes(&pdu.bytes())
    }

    /// The stream, for timeouts and shutdown.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// The next PDU.
    pub fn receive(&mut self) -> Result<Pdu> {
        let mut head = [0; 48];
        self.stream.read_exact(&mut head).context("receiving a header")?;
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        ensure!(head[4] == 0 && length <= 1 << 20, "AHS {} and data segment {length}", head[4]);
        let mut data = vec![0; length.next_multiple_of(4)];
        self.stream.read_exact(&mut data).context("receiving data")?;
        data.truncate(length);
        let pdu = Pdu { head, data };
        // Every response but R2T, and Data-In without status, carries a StatSN that we acknowledge.
        if pdu.opcode() != R2T && (pdu.opcode() != DATA_IN || head[1] & 1 != 0) {
            self.stat_sn = pdu.get(24).wrapping_add(1);
        }
        Ok(pdu)
    }

    /// Sends a command; its tag. Up to 8 KiB of `out` go as immediate data.
    pub fn start(&mut self, lun: u8, cdb: &[u8], out: &[u8], read_bytes: u32) -> Result<u32> {
        self.tag = self.tag.wrapping_add(1);
        let flags = 0x81 | if out.is_empty() { 0 } else { 0x20 } | if read_bytes > 0 { 0x40 } else { 0 };
        let expected = if out.is_empty() { read_bytes } else { u32::try_from(out.len())? };
        let mut pdu = Pdu::new(COMMAND, flags)
            .set(16, self.tag)
            .set(20, expected)
            .set(24, self.cmd_sn)
            .set(28, self.stat_sn);
        pdu.head[9] = lun;
        pdu.head[32..32 + cdb.len()].copy_from_slice(cdb);
        pdu.data = out[..out.len().min(SEGMENT_BYTES)].to_vec();
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        self.send(&pdu)?;
        Ok(self.tag)
    }

    /// Runs a command to its end.
    pub fn command(&mut self, lun: u8, cdb: &[u8], out: &[u8], read_bytes: u32) -> Result<Answer> {
        let tag = self.start(lun, cdb, out, read_bytes)?;
        let mut data = vec![0; read_bytes as usize];
        loop {
            let pdu = self.receive()?;
            match pdu.opcode() {
                DATA_IN if pdu.get(16) == tag => {
                    let at = pdu.get(40) as usize;
                    let to =
                        data.get_mut(at..at + pdu.data.len()).context("Data-In beyond what was asked for")?;
                    to.copy_from_slice(&pdu.data);
                    if pdu.head[1] & 1 != 0 {
                        return Ok(Answer { status: pdu.head[3], sense: None, data });
                    }
                }
                R2T if pdu.get(16) == tag => self.data_out(&pdu, out)?,
                RESPONSE if pdu.get(16) == tag => {
                    ensure!(pdu.head[2] == 0, "iSCSI response {:#04x}", pdu.head[2]);
                    // Fixed format sense (SPC-4 4.5.3), behind its two bytes of length.
                    let sense = pdu.data.get(2..16).map(|s| (s[2] & 0xf, s[12], s[13]));
                    return Ok(Answer { status: pdu.head[3], sense, data });
                }
                NOP_IN => self.pong(&pdu)?,
                REJECT => bail!("rejected, reason {:#04x}", pdu.head[2]),
                other => bail!("unexpected opcode {other:#04x}"),
            }
        }
    }

    fn data_out(&mut self, r2t: &Pdu, out: &[u8]) -> Result<()> {
        let (begin, length) = (r2t.get(40) as usize, r2t.get(44) as usize);
        let wanted = out.get(begin..begin + length).context("R2T beyond the command's data")?;
        let count = wanted.chunks(SEGMENT_BYTES).count();
        for (number, chunk) in wanted.chunks(SEGMENT_BYTES).enumerate() {
            let last = if number + 1 == count { 0x80 } else { 0 };
            let offset = u32::try_from(begin + number * SEGMENT_BYTES)?;
            let mut pdu =
                Pdu::new(DATA_OUT, last).set(16, r2t.get(16)).set(20, r2t.get(20)).set(28, self.stat_sn);
            pdu = pdu.set(36, u32::try_from(number)?).set(40, offset);
            pdu.head[8..16].copy_from_slice(&r2t.head[8..16]);
            pdu.data = chunk.to_vec();
            self.send(&pdu)?;
        }
        Ok(())
    }

    fn pong(&mut self, ping: &Pdu) -> Result<()> {
        let tag = ping.get(20);
        if tag == u32::MAX {
            return Ok(());
        }
        let mut pdu = Pdu::new(NOP_OUT | IMMEDIATE, 0x80).set(16, u32::MAX).set(20, tag).set(24, self.cmd_sn);
        pdu = pdu.set(28, self.stat_sn);
        pdu.head[8..16].copy_from_slice(&ping.head[8..16]);
        self.send(&pdu)
    }

    /// READ(10) of 512-byte blocks.
    pub fn read(&mut self, lun: u8, lba: u32, blocks: u16) -> Result<Vec<u8>> {
        self.command(lun, &rw(0x28, lba, blocks, 0), &[], u32::from(blocks) * 512)?.good()
    }

    /// WRITE(10) of 512-byte blocks.
    pub fn write(&mut self, lun: u8, lba: u32, data: &[u8]) -> Result<Answer> {
        self.command(lun, &rw(0x2a, lba, u16::try_from(data.len() / 512)?, 0), data, 0)
    }

    /// SYNCHRONIZE CACHE(10) of the whole unit.
    pub fn sync(&mut self, lun: u8) -> Result<Answer> {
        self.command(lun, &rw(0x35, 0, 0, 0), &[], 0)
    }

    /// Clears the unit attentions that a new session has.
    pub fn settle(&mut self, lun: u8) -> Result<()> {
        for _ in 0..8 {
            if self.command(lun, &[0; 6], &[], 0)?.status == 0 {
                return Ok(());
            }
        }
        bail!("TEST UNIT READY does not become GOOD")
    }
}

/// A ten-byte CDB with an address and a length.
pub fn rw(opcode: u8, lba: u32, blocks: u16, flags: u8) -> [u8; 10] {
    let (a, n) = (lba.to_be_bytes(), blocks.to_be_bytes());
    [opcode, flags, a[0], a[1], a[2], a[3], 0, n[0], n[1], 0]
}
