//! Round trips of every PDU, known bytes, and refusals.

use super::*;
use base::Entropy;
use base::random::SeededRandom;

/// Random headers with every opcode: parsing does not panic, and what parses is the same after encode and parse.
#[test]
fn whatever_parses_round_trips() {
    let mut random = SeededRandom::new(1);
    let mut parsed = [0u32; 64];
    for round in 0..200_000u32 {
        let mut bhs = [0u8; BHS_LEN];
        random.fill(&mut bhs);
        if round % 8 != 0 {
            bhs[0] = (bhs[0] & 0xc0) | Opcode::ALL[(round as usize / 8) % 18] as u8;
            bhs[1] |= 0x80;
            bhs[4] = 0;
        }
        if round % 3 == 0 {
            bhs[5..8].fill(0);
        }
        if let Ok(pdu) = Pdu::parse(&bhs) {
            parsed[usize::from(bhs[0] & 0x3f)] += 1;
            let mut out = [0xaa; BHS_LEN];
            pdu.encode(&mut out);
            assert_eq!(Pdu::parse(&out), Ok(pdu), "{bhs:02x?}");
            assert_eq!(Frame::of(&out), Frame::of(&bhs));
        }
    }
    for opcode in Opcode::ALL {
        if opcode != Opcode::TextResponse {
            assert!(parsed[opcode as usize] > 100, "{opcode:?} parsed {} times", parsed[opcode as usize]);
        }
    }
}

#[test]
fn opcodes_are_distinct_and_complete() {
    let known: Vec<u8> = (0..64).filter(|&b| Opcode::of(b).is_some()).collect();
    let listed: Vec<u8> = Opcode::ALL.iter().map(|&o| o as u8).collect();
    assert_eq!(known, listed);
    assert_eq!(Opcode::of(0x41), Some(Opcode::ScsiCommand), "the immediate bit is not the opcode");
}

#[test]
fn scsi_command_bytes() {
    let command = ScsiCommand {
        immediate: false,
        final_: true,
        read: true,
        write: false,
        attribute: TaskAttribute::Simple,
        priority: 0,
        lun: crate::lun::encode(1).unwrap(),
        itt: Tag(0x0102_0304),
        expected_len: 4096,
        cmd_sn: Serial(7),
        exp_stat_sn: Serial(9),
        cdb: [0x28, 0, 0, 0, 0, 1, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0],
        ahs_len: 0,
        data_len: 0,
    };
    let mut out = [0xff; BHS_LEN];
    command.encode(&mut out);
    let mut expected = [0; BHS_LEN];
    expected[..2].copy_from_slice(&[0x01, 0xc1]);
    expected[9] = 1;
    expected[16..32].copy_from_slice(&[1, 2, 3, 4, 0, 0, 0x10, 0, 0, 0, 0, 7, 0, 0, 0, 9]);
    expected[32..48].copy_from_slice(&command.cdb);
    assert_eq!(out, expected);
    assert_eq!(Request::parse(&out), Ok(Request::ScsiCommand(command)));
}

#[test]
fn login_response_bytes() {
    let login = LoginResponse {
        continues: false,
        stage: LoginStage::Operational,
        transit: Some(LoginStage::FullFeature),
        version_max: 0,
        version_active: 0,
        isid: [0x40, 0, 1, 2, 3, 4],
        tsih: 5,
        itt: Tag(6),
        sn: TargetNumbers { stat_sn: Serial(1), exp_cmd_sn: Serial(2), max_cmd_sn: Serial(3) },
        status: LoginStatus::AuthenticationFailure,
        data_len: 0x01_0203,
    };
    let mut out = [0xff; BHS_LEN];
    login.encode(&mut out);
    assert_eq!(out[..2], [0x23, 0x87]);
    assert_eq!(out[5..16], [1, 2, 3, 0x40, 0, 1, 2, 3, 4, 0, 5]);
    assert_eq!(out[24..38], [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 2, 1]);
    assert_eq!(Response::parse(&out), Ok(Response::Login(login)));
}

#[test]
fn data_in_with_status_and_residual() {
    let data = DataIn {
        final_: true,
        acknowledge: false,
        status: Some(0),
        residual: Residual::of(8192, 4096),
        lun: 0,
        itt: Tag(1),
        ttt: Tag::RESERVED,
        sn: TargetNumbers::default(),
        data_sn: Serial(0),
        offset: 0,
        data_len: 4096,
    };
    let mut out = [0; BHS_LEN];
    data.encode(&mut out);
    assert_eq!(out[1], 0x83);
    assert_eq!(out[44..48], 4096u32.to_be_bytes());
    assert_eq!(Response::parse(&out), Ok(Response::DataIn(data)));
    let numbers =
        TargetNumbers { stat_sn: Serial(0x0a0b_0c0d), exp_cmd_sn: Serial(1), max_cmd_sn: Serial(2) };
    numbers.stamp(&mut out);
    assert_eq!(Response::parse(&out), Ok(Response::DataIn(DataIn { sn: numbers, ..data })));
}

#[test]
fn residuals() {
    assert_eq!(Residual::of(512, 512), Residual::None);
    assert_eq!(Residual::of(512, 0), Residual::Underflow(512));
    assert_eq!(Residual::of(0, 512), Residual::Overflow(512));
    assert_eq!(Residual::of(1, u64::MAX), Residual::Overflow(u32::MAX));
}

#[test]
fn frames() {
    let mut bhs = [0u8; BHS_LEN];
    assert_eq!(Frame::of(&bhs).wire_len(true, true), 52, "no data, no data digest");
    bhs[4] = 2;
    set_data_len(&mut bhs, 5);
    let frame = Frame::of(&bhs);
    assert_eq!(frame, Frame { ahs_len: 8, data_len: 5 });
    assert_eq!(frame.header_len(), 56);
    assert_eq!(frame.padding(), 3);
    assert_eq!(frame.wire_len(false, false), 64);
    assert_eq!(frame.wire_len(true, true), 72);
    bhs[4..8].fill(0xff);
    assert_eq!(Frame::of(&bhs).wire_len(true, true), 48 + 1020 + 4 + (1 << 24) + 4);
    assert_eq!([0, 1, 2, 3, 4].map(padding), [0, 3, 2, 1, 0]);
}

fn request(bytes: &[(usize, u8)]) -> Result<Request, PduError> {
    let mut bhs = [0u8; BHS_LEN];
    for &(at, byte) in bytes {
        bhs[at] = byte;
    }
    Request::parse(&bhs)
}

fn response(bytes: &[(usize, u8)]) -> Result<Response, PduError> {
    let mut bhs = [0u8; BHS_LEN];
    for &(at, byte) in bytes {
        bhs[at] = byte;
    }
    Response::parse(&bhs)
}

#[test]
fn refuses_malformed_requests() {
    let itt = [(16, 0xff), (17, 0xff), (18, 0xff), (19, 0xff)];
    let with_itt = |opcode: u8, flags: u8| {
        let mut b = vec![(0, opcode), (1, flags)];
        b.extend(itt);
        b
    };
    let cases: Vec<(Vec<(usize, u8)>, &str)> = vec![
        (vec![(0, 0x00)], "final"),
        (with_itt(0x00, 0x80), "immediate"),
        (vec![(0, 0x00), (1, 0x80), (4, 1)], "TotalAHSLength"),
        (vec![(0, 0x01), (1, 0x85)], "ATTR"),
        (vec![(0, 0x01), (1, 0x01)], "F and W"),
        (vec![(0, 0x01), (1, 0xc1), (7, 1)], "immediate data"),
        (with_itt(0x01, 0x81), "0xffffffff"),
        (vec![(0, 0x02), (1, 0x01)], "final"),
        (vec![(0, 0x02), (1, 0x81), (6, 1)], "DataSegmentLength"),
        (with_itt(0x02, 0x81), "0xffffffff"),
        (vec![(0, 0x43), (1, 0x08)], "CSG"),
        (vec![(0, 0x43), (1, 0x0c)], "CSG"),
        (vec![(0, 0x43), (1, 0xc1)], "T and C"),
        (vec![(0, 0x43), (1, 0x82)], "NSG"),
        (vec![(0, 0x43), (1, 0x85)], "NSG"),
        (vec![(0, 0x43), (1, 0x80)], "NSG"),
        (vec![(0, 0x04), (1, 0xc0)], "F and C"),
        (with_itt(0x04, 0x80), "0xffffffff"),
        (vec![(0, 0x06), (1, 0x00)], "final"),
        (vec![(0, 0x06), (1, 0x80), (7, 1)], "DataSegmentLength"),
        (with_itt(0x06, 0x80), "0xffffffff"),
        (vec![(0, 0x10), (1, 0x00)], "final"),
        (vec![(0, 0x10), (1, 0x80), (5, 1)], "DataSegmentLength"),
        (vec![(0, 0x05), (4, 1)], "TotalAHSLength"),
    ];
    for (bytes, problem) in cases {
        let error = request(&bytes).unwrap_err();
        assert!(error.to_string().contains(problem), "{bytes:?} gave {error}");
        assert_eq!(error.reject_reason(), RejectReason::InvalidPduField);
    }
    assert_eq!(request(&[(0, 0x3e)]), Err(PduError::UnknownOpcode(0x3e)));
    assert_eq!(request(&[(0, 0x21), (1, 0x80)]), Err(PduError::WrongDirection(Opcode::ScsiResponse)));
    assert_eq!(PduError::UnknownOpcode(0).reject_reason(), RejectReason::CommandNotSupported);
}

#[test]
fn refuses_malformed_responses() {
    let cases: &[(&[(usize, u8)], &str)] = &[
        (&[(0, 0x20)], "final"),
        (&[(0, 0x21), (1, 0x86)], "both"),
        (&[(0, 0x21), (1, 0x98)], "both"),
        (&[(0, 0x22), (1, 0x80), (7, 1)], "DataSegmentLength"),
        (&[(0, 0x24), (1, 0xc0)], "F and C"),
        (&[(0, 0x24), (1, 0x80)], "Target Transfer Tag"),
        (&[(0, 0x25), (1, 0x01)], "F must be"),
        (&[(0, 0x25), (1, 0x82)], "without status"),
        (&[(0, 0x31), (1, 0x80)], "Desired"),
        (&[(0, 0x31), (1, 0x80), (20, 255), (21, 255), (22, 255), (23, 255), (47, 1)], "Target Transfer Tag"),
        (&[(0, 0x3f), (1, 0x80), (4, 1)], "TotalAHSLength"),
    ];
    for (bytes, problem) in cases {
        let error = response(bytes).unwrap_err();
        assert!(error.to_string().contains(problem), "{bytes:?} gave {error}");
    }
    assert_eq!(response(&[(0, 0x01)]), Err(PduError::WrongDirection(Opcode::ScsiCommand)));
}

#[test]
fn codes_round_trip() {
    for code in 0..=255u8 {
        assert_eq!(TmfFunction::from_code(code).code(), code);
        assert_eq!(TmfResponse::from_code(code).code(), code);
        assert_eq!(RejectReason::from_code(code).code(), code);
        assert_eq!(AsyncEvent::from_code(code).code(), code);
        assert_eq!(LogoutReason::from_code(code).code(), code);
        assert_eq!(LogoutResponse::from_code(code).code(), code);
        assert_eq!(SnackType::from_code(code).code(), code);
        if let Some(attribute) = TaskAttribute::from_code(code) {
            assert_eq!(attribute.code(), code);
        }
        if let Some(stage) = LoginStage::from_code(code) {
            assert_eq!(stage.code(), code);
        }
    }
    for code in 0..=0xffff {
        assert_eq!(LoginStatus::from_code(code).code(), code);
    }
    for &status in LoginStatus::NAMED {
        assert!(!matches!(LoginStatus::from_code(status.code()), LoginStatus::Other(_)));
        assert_eq!(status.is_success(), status.class() == 0);
    }
}
