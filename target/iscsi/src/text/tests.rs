//! Text in, text out.

use super::*;
use proptest::prelude::*;

const LIMITS: TextLimits = TextLimits { bytes: 20_000, keys: 8 };

fn parse(bytes: &[u8]) -> Result<Text, TextError> {
    Text::parse(bytes.to_vec(), LIMITS, Repeats::Refused)
}

#[test]
fn reads_pairs() {
    let text = parse(b"InitiatorName=iqn.a=b\0InitiatorAlias=\0X-com.example.key=1,2\0").unwrap();
    let pairs: Vec<_> = text.iter().collect();
    assert_eq!(pairs, [("InitiatorName", "iqn.a=b"), ("InitiatorAlias", ""), ("X-com.example.key", "1,2")]);
    assert_eq!(text.get("InitiatorAlias"), Some(""));
    assert_eq!(text.get("TargetAlias"), None);
    assert_eq!((text.len(), text.is_empty()), (3, false));
    assert!(parse(b"").unwrap().is_empty());
    assert!(parse(b"\0\0").unwrap().is_empty());
    assert_eq!(parse(b"A=1\0\0\0").unwrap().len(), 1, "padding that was counted");
}

#[test]
fn refuses_malformed() {
    use TextError as E;
    let long_key = format!("{}=1\0", "K".repeat(64));
    type Check = fn(&E) -> bool;
    let cases: Vec<(Vec<u8>, Check)> = vec![
        (b"A=1".to_vec(), |e| matches!(e, E::Unterminated)),
        (b"A=1\0\0B=2\0".to_vec(), |e| matches!(e, E::NoEqualsSign(_))),
        (b"A\0".to_vec(), |e| matches!(e, E::NoEqualsSign(_))),
        (b"=1\0".to_vec(), |e| matches!(e, E::BadKey(_))),
        (b"1A=1\0".to_vec(), |e| matches!(e, E::BadKey(_))),
        (b"A B=1\0".to_vec(), |e| matches!(e, E::BadKey(_))),
        (b"A\xff=1\0".to_vec(), |e| matches!(e, E::BadKey(_))),
        (long_key.into_bytes(), |e| matches!(e, E::BadKey(_))),
        (b"A=1\0B=\xff\xfe\0".to_vec(), |e| *e == E::NotUtf8("B".into())),
        (b"A=1\0B=2\0A=1\0".to_vec(), |e| *e == E::Repeated("A".into())),
        (format!("A={}\0", "v".repeat(256)).into_bytes(), |e| matches!(e, E::ValueTooLong { max: 255, .. })),
        (format!("A=a,{}\0", "v".repeat(256)).into_bytes(), |e| matches!(e, E::ValueTooLong { .. })),
        (format!("A=0x{}\0", "1".repeat(8191)).into_bytes(), |e| {
            matches!(e, E::ValueTooLong { max: 8192, .. })
        }),
        ((0..9).flat_map(|i| format!("A{i}=\0").into_bytes()).collect(), |e| *e == E::TooManyKeys(8)),
        (vec![0; 20_001], |e| *e == E::TooLong(20_000)),
    ];
    for (bytes, expected) in cases {
        let error = parse(&bytes).unwrap_err();
        assert!(expected(&error), "{:?} gave {error}", String::from_utf8_lossy(&bytes));
    }
    assert!(parse(format!("A={}\0", "v".repeat(255)).as_bytes()).is_ok());
    assert!(parse(format!("A=0x{}\0", "1".repeat(8190)).as_bytes()).is_ok());
}

#[test]
fn target_records_may_repeat() {
    let bytes = b"TargetName=a\0TargetAddress=x\0TargetAddress=y\0TargetName=b\0";
    assert_eq!(parse(bytes), Err(TextError::Repeated("TargetAddress".into())));
    let text = Text::parse(bytes.to_vec(), LIMITS, Repeats::TargetRecords).unwrap();
    assert_eq!(text.len(), 4);
    assert!(Text::parse(b"A=1\0A=1\0".to_vec(), LIMITS, Repeats::TargetRecords).is_err());
}

#[test]
fn accumulates_up_to_the_limit() {
    let mut acc = Accumulator::new(TextLimits { bytes: 8, keys: 8 });
    assert_eq!(acc.push(b"AB", true, Repeats::Refused), Ok(None));
    assert!(!acc.is_empty());
    assert_eq!(acc.push(b"", true, Repeats::Refused), Ok(None));
    let text = acc.push(b"C=123\0", false, Repeats::Refused).unwrap().unwrap();
    assert_eq!(text.get("ABC"), Some("123"));
    assert!(acc.is_empty());
    assert_eq!(acc.push(b"12345678", true, Repeats::Refused), Ok(None));
    assert_eq!(acc.push(b"9", true, Repeats::Refused), Err(TextError::TooLong(8)));
    assert!(acc.is_empty(), "nothing is held after an error");
}

#[test]
fn a_zero_byte_does_not_smuggle_a_key() {
    let mut writer = TextWriter::new();
    writer.pair("TargetAlias", "a\0MaxConnections=8");
    writer.pair("HeaderDigest", "None");
    assert_eq!(writer.as_bytes(), b"TargetAlias=a\0HeaderDigest=None\0");
}

#[test]
fn goes_out_in_segments() {
    let mut writer = TextWriter::new();
    writer.pair("TargetName", "iqn.2001-04.com.example");
    let whole = writer.as_bytes().to_vec();
    let mut out = writer.finish();
    let mut acc = Accumulator::new(LIMITS);
    let mut segments = 0;
    loop {
        let (segment, continues) = out.next_segment(10);
        assert!(segment.len() <= 10);
        segments += 1;
        if let Some(text) = acc.push(segment, continues, Repeats::Refused).unwrap() {
            assert_eq!(text.get("TargetName"), Some("iqn.2001-04.com.example"));
            break;
        }
    }
    assert_eq!(segments, whole.len().div_ceil(10));
    assert!(out.is_done());
    assert_eq!(TextWriter::new().finish().next_segment(10), (&[][..], false));
}

proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn nearly_text_never_panics(text in "([A-Za-z]{0,3}=?[^\0]{0,4}\0?){0,12}") {
        if let Ok(parsed) = parse(text.as_bytes()) {
            let mut writer = TextWriter::new();
            parsed.iter().for_each(|(k, v)| writer.pair(k, v));
            let again = parse(writer.as_bytes()).unwrap();
            prop_assert!(again.iter().eq(parsed.iter()));
        }
    }

    #[test]
    fn any_split_gives_the_same(text in "([A-C][a-z]{0,3}=[^\0]{0,9}\0){0,6}", cuts in proptest::collection::vec(0usize..80, 0..6)) {
        let bytes = text.as_bytes();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
        cuts.sort_unstable();
        let mut acc = Accumulator::new(LIMITS);
        let mut start = 0;
        for cut in cuts {
            prop_assert_eq!(acc.push(&bytes[start..cut], true, Repeats::Refused), Ok(None));
            start = cut;
        }
        prop_assert_eq!(acc.push(&bytes[start..], false, Repeats::Refused).map(|t| t.unwrap()), parse(bytes));
    }
}
