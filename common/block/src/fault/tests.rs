use super::*;
use crate::{Buf, Bufs, Complete, ExtentState};
use base::Entropy;
use base::random::SeededRandom;
use proptest::prelude::*;
use std::time::Duration;

const B: u64 = 512;

#[derive(Default)]
struct Sink(RefCell<Vec<(u64, Request)>>);
impl Complete for Sink {
    fn complete(&self, token: u64, request: Request) {
        self.0.borrow_mut().push((token, request));
    }
}

/// One simulated node: a context, a channel, and what came back.
struct Node {
    device: FaultDevice,
    context: ChannelContext,
    channel: Rc<dyn Channel>,
    sink: Rc<Sink>,
}

impl Node {
    fn new(device: &FaultDevice) -> Self {
        let context = ChannelContext::hostless();
        let channel = device.open(&context).unwrap();
        Node { device: device.clone(), context, channel, sink: Rc::default() }
    }

    fn submit(&self, token: u64, mut request: Request) {
        request.push_frame(Rc::clone(&self.sink) as Rc<dyn Complete>, token);
        self.channel.submit(request);
    }

    fn done(&self) -> Vec<(u64, Request)> {
        self.context.completions.run();
        self.sink.0.take()
    }

    /// Submits, lets everything finish, and returns the request.
    fn run(&self, request: Request) -> Request {
        self.submit(0, request);
        while let Some(at) = self.device.next_due() {
            self.device.advance(at);
        }
        let mut done = self.done();
        assert_eq!(done.len(), 1);
        done.remove(0).1
    }

    fn write(&self, block: u64, fill: u8, fua: bool) -> Result<(), IoErrorKind> {
        self.run(Request::write(block * B, bufs(&[fill; B as usize]), fua)).result.map_err(|e| e.kind)
    }

    fn flush(&self) -> Result<(), IoErrorKind> {
        self.run(Request::flush()).result.map_err(|e| e.kind)
    }

    fn read(&self, block: u64) -> Result<u8, IoErrorKind> {
        let r = self.run(Request::read(block * B, bufs(&[0xee; B as usize])));
        r.result.map_err(|e| e.kind)?;
        assert!(r.bufs[0].iter().all(|&b| b == r.bufs[0][0]), "a mixed block");
        Ok(r.bufs[0][0])
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.context.completions.abandon();
    }
}

fn bufs(bytes: &[u8]) -> Bufs {
    std::iter::once(Buf::copy_of(bytes)).collect()
}

fn calm() -> FaultDevice {
    FaultDevice::new(FaultConfig::calm(1 << 20, B as u32))
}

#[test]
fn a_crash_takes_what_no_flush_covered() {
    let d = calm();
    let n = Node::new(&d);
    n.write(1, 1, false).unwrap();
    n.flush().unwrap();
    n.write(1, 2, false).unwrap();
    n.write(2, 3, true).unwrap();
    n.write(3, 4, false).unwrap();
    assert_eq!((n.read(1), n.read(2), n.read(3)), (Ok(2), Ok(3), Ok(4)));
    assert_eq!(d.unflushed_blocks(), 2);
    let report = d.crash(InFlight::Die);
    assert_eq!((report.unflushed, report.kept, report.older), (2, 0, 0));
    assert_eq!((n.read(1), n.read(2), n.read(3)), (Ok(1), Ok(3), Ok(0)));
}

#[test]
fn a_crash_may_keep_everything_also_what_is_in_flight() {
    let d = FaultDevice::new(FaultConfig { timing: Timing::Held, ..FaultConfig::calm(1 << 20, B as u32) });
    let n = Node::new(&d);
    n.submit(0, Request::write(0, bufs(&[7; B as usize]), false));
    assert_eq!(d.crash_with(CrashPolicy::KeepAll, InFlight::Fail).in_flight, 1);
    assert_eq!(n.done()[0].1.result, Err(IoError::new(IoErrorKind::Gone)));
    n.submit(0, Request::read(0, bufs(&[0; B as usize])));
    assert_eq!(d.release_all(), 1);
    assert_eq!(n.done()[0].1.bufs[0][0], 7);
}

#[test]
fn held_requests_finish_in_the_order_that_the_test_chooses() {
    let d = FaultDevice::new(FaultConfig { timing: Timing::Held, ..FaultConfig::calm(1 << 20, B as u32) });
    let (a, b) = (Node::new(&d), Node::new(&d));
    a.submit(10, Request::write(0, bufs(&[1; B as usize]), false));
    b.submit(20, Request::write(0, bufs(&[2; B as usize]), false));
    a.submit(30, Request::flush());
    let held = d.held();
    assert_eq!(held.iter().map(|h| h.channel).collect::<Vec<_>>(), [0, 1, 0]);
    assert!(a.done().is_empty() && d.next_due().is_none());
    // The flush was asked before either write was answered: it covers neither.
    assert!(d.release(held[2].id) && !d.release(held[2].id));
    assert!(d.release(held[1].id));
    assert!(d.release_failed(held[0].id, IoErrorKind::Medium.into()));
    assert_eq!(
        a.done().iter().map(|(t, r)| (*t, r.result.is_ok())).collect::<Vec<_>>(),
        [(30, true), (10, false)]
    );
    assert_eq!(b.done()[0].0, 20);
    assert_eq!(d.unflushed_blocks(), 1);
}

#[test]
fn requests_overtake_each_other_in_virtual_time() {
    let d = FaultDevice::new(FaultConfig::harsh(1 << 20, B as u32, 3));
    let n = Node::new(&d);
    (0..32).for_each(|i| n.submit(i, Request::read(i * B, bufs(&[0; B as usize]))));
    assert_eq!(d.advance(Mono::from_nanos(1000)), 0, "nothing is that fast");
    assert_eq!(d.advance(Mono::from_nanos(1_000_000_000)), 32);
    let order: Vec<u64> = n.done().iter().map(|d| d.0).collect();
    assert!(!order.is_sorted(), "{order:?}");
    assert_eq!(order.len(), 32);
}

#[test]
fn errors_hit_their_range_and_count() {
    let d = calm();
    let n = Node::new(&d);
    let bad = d.inject(Fault::everywhere(On::Reads, Effect::Fail(IoErrorKind::Medium)).within(B..2 * B));
    assert_eq!((n.read(0), n.read(1), n.read(2)), (Ok(0), Err(IoErrorKind::Medium), Ok(0)));
    let r = n.run(Request::read(0, bufs(&[0; 4 * B as usize])));
    assert_eq!(r.result, Err(IoError::at(IoErrorKind::Medium, B)));
    d.clear(bad);
    assert_eq!(n.read(1), Ok(0));
    d.inject(Fault::everywhere(On::Writes, Effect::Fail(IoErrorKind::NoSpace)).times(2));
    assert_eq!(n.write(0, 1, false), Err(IoErrorKind::NoSpace));
    assert_eq!(n.write(0, 1, false), Err(IoErrorKind::NoSpace));
    assert_eq!(n.write(0, 1, false), Ok(()));
}

#[test]
fn a_failed_write_may_be_done_up_to_the_faulty_block() {
    let d = calm();
    let n = Node::new(&d);
    d.inject(Fault::everywhere(On::Writes, Effect::Fail(IoErrorKind::Medium)).within(2 * B..3 * B));
    assert!(n.run(Request::write(0, bufs(&[5; 4 * B as usize]), false)).result.is_err());
    assert_eq!((n.read(1), n.read(2), n.read(3)), (Ok(5), Ok(0), Ok(0)));
}

#[test]
fn after_a_failed_flush_the_next_one_succeeds_and_some_writes_are_lost() {
    let d = calm();
    let n = Node::new(&d);
    (0..64).for_each(|b| n.write(b, 9, false).unwrap());
    d.inject(Fault::everywhere(On::Flushes, Effect::Fail(IoErrorKind::Medium)).times(1));
    assert_eq!(n.flush(), Err(IoErrorKind::Medium));
    assert_eq!(n.flush(), Ok(()));
    assert!((0..64).all(|b| n.read(b) == Ok(9)), "the cache still has them");
    d.crash_with(CrashPolicy::KeepAll, InFlight::Die);
    let kept = (0..64).filter(|&b| n.read(b) == Ok(9)).count();
    assert!(kept > 0 && kept < 64, "{kept} of 64");
}

#[test]
fn a_stall_holds_until_it_is_cleared() {
    let d = calm();
    let n = Node::new(&d);
    let stall = d.inject(Fault::everywhere(On::Writes, Effect::Stall).times(1));
    n.submit(1, Request::write(0, bufs(&[1; B as usize]), false));
    assert_eq!(n.write(1, 2, false), Ok(()), "only one is stalled");
    assert_eq!(d.held().len(), 1);
    d.clear(stall);
    d.advance(Mono::ZERO);
    assert_eq!(n.done()[0].0, 1);
    assert_eq!(n.read(0), Ok(1));
}

#[test]
fn a_disk_that_is_gone_fails_everything_and_may_come_back() {
    let d = FaultDevice::new(FaultConfig { timing: Timing::Held, ..FaultConfig::calm(1 << 20, B as u32) });
    let n = Node::new(&d);
    n.submit(1, Request::flush());
    d.set_gone(true);
    n.submit(2, Request::flush());
    let kinds: Vec<_> = n.done().into_iter().map(|(t, r)| (t, r.result.map_err(|e| e.kind))).collect();
    assert_eq!(kinds, [(1, Err(IoErrorKind::Gone)), (2, Err(IoErrorKind::Gone))]);
    assert!(d.open(&ChannelContext::hostless()).is_err());
    d.set_gone(false);
    n.submit(3, Request::flush());
    assert!(d.release_all() == 1 && n.done()[0].1.result.is_ok());
}

#[test]
fn silent_faults_are_silent() {
    let d = calm();
    let n = Node::new(&d);
    n.write(0, 1, true).unwrap();
    d.rot(0, B);
    let r = n.run(Request::read(0, bufs(&[0; B as usize])));
    assert!(r.result.is_ok());
    assert_eq!(r.bufs[0].iter().map(|b| (b ^ 1).count_ones()).sum::<u32>(), 1, "one bit");
    d.inject(Fault::everywhere(On::Writes, Effect::Lose).times(1));
    assert_eq!((n.write(1, 7, true), n.read(1)), (Ok(()), Ok(0)));
    d.inject(Fault::everywhere(On::Writes, Effect::Corrupt).times(1));
    let r = n.run(Request::write(2 * B, bufs(&[0; 2 * B as usize]), true));
    assert!(r.result.is_ok());
    let mut medium = [0; 2 * B as usize];
    d.medium(2 * B, &mut medium);
    assert_eq!(medium.iter().map(|b| b.count_ones()).sum::<u32>(), 2, "one bit in each block");
}

#[test]
fn a_lie_about_flushes_is_a_loss() {
    let d = calm();
    let n = Node::new(&d);
    d.lie_on_flush(true);
    n.write(0, 1, true).unwrap();
    n.flush().unwrap();
    d.crash(InFlight::Die);
    assert_eq!(n.read(0), Ok(0));
}

#[test]
fn discards_and_zeroes_do_as_told_and_the_map_says_so() {
    let d = calm();
    let n = Node::new(&d);
    assert!(n.run(Request::write(0, bufs(&[1; 16384]), true)).result.is_ok());
    assert!(n.run(Request::new(Op::Discard, 4096, 4096)).result.is_ok());
    assert!(n.run(Request::new(Op::WriteZeroes { unmap: true }, 8192, 4096)).result.is_ok());
    let map = n.run(Request::new(Op::Map, 0, 16384)).extents;
    use ExtentState::{Hole, Mapped};
    assert_eq!(
        map.iter().map(|e| (e.len, e.state)).collect::<Vec<_>>(),
        [(4096, Mapped), (8192, Hole), (4096, Mapped)]
    );
    d.crash(InFlight::Die);
    assert_eq!(n.read(8), Ok(1), "a discard is volatile as any write");
}

#[test]
fn a_dropped_channel_gives_its_requests_up_but_the_disk_does_them() {
    let d = FaultDevice::new(FaultConfig { timing: Timing::Held, ..FaultConfig::calm(1 << 20, B as u32) });
    let (a, b) = (Node::new(&d), Node::new(&d));
    a.submit(1, Request::write(0, bufs(&[6; B as usize]), false));
    let sink = Rc::clone(&a.sink);
    drop(a);
    assert_eq!(d.release_all(), 1);
    assert!(sink.0.borrow().is_empty());
    b.submit(2, Request::read(0, bufs(&[0; B as usize])));
    d.release_all();
    assert_eq!(b.done()[0].1.bufs[0][0], 6);
}

#[test]
fn torn_at_physical_blocks_never_within_one() {
    let config =
        FaultConfig { crash: CrashPolicy::AnyOrder(Tear::Physical), ..FaultConfig::calm(1 << 20, B as u32) };
    let (mut torn, mut logical) = (0, 0);
    for seed in 0..200 {
        for tear in [Tear::Physical, Tear::Logical, Tear::Never] {
            let d = FaultDevice::new(FaultConfig { seed, crash: CrashPolicy::AnyOrder(tear), ..config });
            let n = Node::new(&d);
            assert!(n.run(Request::write(0, bufs(&[1; 16384]), false)).result.is_ok());
            d.crash(InFlight::Die);
            let blocks: Vec<u8> = (0..32).map(|b| n.read(b).unwrap()).collect();
            let whole = |n: usize| blocks.chunks(n).all(|c| c.iter().all(|b| *b == c[0]));
            match tear {
                Tear::Physical => {
                    assert!(whole(8), "{blocks:?}");
                    torn += u32::from(!whole(32));
                }
                Tear::Logical => logical += u32::from(!whole(8)),
                Tear::Never => assert!(whole(32)),
            }
        }
    }
    assert!(torn > 20 && logical > 20, "{torn} {logical}");
}

/// What a workload from a seed saw; `Err` is what the oracle found.
struct Workload {
    device: FaultDevice,
    nodes: Vec<Node>,
    oracle: Oracle,
    random: SeededRandom,
    now: Mono,
    next: u64,
    waiting: BTreeMap<u64, Waiting>,
    trace: u64,
}

enum Waiting {
    Write(WriteToken),
    Discard(WriteToken),
    Read(ReadToken),
    Flush(FlushToken),
}

const BLOCKS: u64 = 64;

impl Workload {
    fn new(config: FaultConfig) -> Self {
        let device = FaultDevice::new(config);
        Workload {
            nodes: (0..2).map(|_| Node::new(&device)).collect(),
            device,
            oracle: Oracle::new(B as usize),
            random: SeededRandom::new(config.seed),
            now: Mono::ZERO,
            next: 0,
            waiting: BTreeMap::new(),
            trace: 0,
        }
    }

    fn range(&mut self) -> std::ops::Range<u64> {
        let from = self.random.below(BLOCKS);
        from..(from + 1 + self.random.below(12)).min(BLOCKS)
    }

    fn submit(&mut self) {
        let r = self.range();
        let (offset, len) = (r.start * B, (r.end - r.start) * B);
        let (waiting, request) = match self.random.below(16) {
            0..6 => {
                let fua = self.random.below(4) == 0;
                let (token, data) = self.oracle.write(r, fua);
                (Waiting::Write(token), Request::write(offset, bufs(&data), fua))
            }
            6..12 => {
                (Waiting::Read(self.oracle.read(r)), Request::read(offset, bufs(&vec![0; len as usize])))
            }
            12..14 => (Waiting::Flush(self.oracle.flush()), Request::flush()),
            14 => (Waiting::Discard(self.oracle.zero(r)), Request::new(Op::Discard, offset, len)),
            _ => (
                Waiting::Write(self.oracle.zero(r)),
                Request::new(Op::WriteZeroes { unmap: true }, offset, len),
            ),
        };
        let node = self.random.below(self.nodes.len() as u64) as usize;
        self.nodes[node].submit(self.next, request);
        self.waiting.insert(self.next, waiting);
        self.next += 1;
    }

    fn take(&mut self) -> Result<(), Violation> {
        let mut done: Vec<_> = self.nodes.iter().flat_map(Node::done).collect();
        // What a failed flush evicted is seen by reads that finish with it: the failures come first.
        done.sort_by_key(|(_, r)| (r.result.is_ok(), r.op == Op::Read));
        for (token, request) in done {
            let ok = request.result.is_ok();
            self.trace = self.trace.rotate_left(5) ^ token ^ self.now.as_nanos() ^ u64::from(ok);
            match self.waiting.remove(&token).expect("completed twice") {
                Waiting::Write(t) => self.oracle.write_done(t, ok),
                Waiting::Discard(t) => self.oracle.discard_done(t),
                Waiting::Flush(t) => self.oracle.flush_done(t, ok),
                Waiting::Read(t) if ok => self.oracle.read_done(t, &request.bufs[0])?,
                Waiting::Read(t) => self.oracle.read_failed(t),
            }
        }
        Ok(())
    }

    fn crash(&mut self) -> Result<(), Violation> {
        self.device.crash(InFlight::Die);
        self.waiting.clear();
        let mut medium = vec![0; (BLOCKS * B) as usize];
        self.device.medium(0, &mut medium);
        for (b, bytes) in medium.chunks(B as usize).enumerate() {
            let stamp = self.oracle.check_after_crash(b as u64, bytes)?;
            self.trace = self.trace.rotate_left(7) ^ stamp.0;
        }
        self.oracle.crashed();
        Ok(())
    }

    fn run(&mut self, steps: u32, faults: bool) -> Result<u64, Violation> {
        for _ in 0..steps {
            match self.random.below(100) {
                0..2 => {
                    self.take()?;
                    self.crash()?;
                }
                2..4 if faults => {
                    let on = [On::Reads, On::Writes, On::Flushes, On::All][self.random.below(4) as usize];
                    let effect = [
                        Effect::Fail(IoErrorKind::Medium),
                        Effect::Fail(IoErrorKind::NoSpace),
                        Effect::Stall,
                        Effect::Delay(Duration::from_millis(5)),
                    ][self.random.below(4) as usize];
                    let r = self.range();
                    let times = 1 + self.random.below(4) as u32;
                    self.device
                        .inject(Fault::everywhere(on, effect).within(r.start * B..r.end * B).times(times));
                }
                4..6 => self.device.clear_all(),
                6..50 => self.submit(),
                _ => {
                    self.now = self.now + Duration::from_micros(self.random.below(200));
                    self.device.advance(self.now);
                    self.take()?;
                }
            }
        }
        Ok(self.trace)
    }
}

fn config(seed: u64) -> FaultConfig {
    let harsh = FaultConfig::harsh(BLOCKS * B, B as u32, seed);
    match seed % 4 {
        0 => FaultConfig { volatile_cache: false, ..harsh },
        1 => FaultConfig { crash: CrashPolicy::Any(Tear::Logical), ..harsh },
        2 => FaultConfig { evict_after_flush_error: true, ..harsh },
        _ => harsh,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn a_harsh_disk_holds_only_what_the_oracle_allows(seed: u64) {
        let trace = Workload::new(config(seed)).run(600, true);
        prop_assert!(trace.is_ok(), "seed {seed}: {}", trace.unwrap_err());
        prop_assert_eq!(trace, Workload::new(config(seed)).run(600, true), "seed {} does not replay", seed);
    }
}

/// How many of a hundred seeds the oracle finds something in.
fn found(prepare: impl Fn(&FaultDevice)) -> usize {
    let one = |seed| {
        let mut w = Workload::new(FaultConfig::harsh(BLOCKS * B, B as u32, seed));
        prepare(&w.device);
        w.run(600, false).is_err()
    };
    (0..100).filter(|&s| one(s)).count()
}

fn inject(device: &FaultDevice, fault: Fault) {
    let _ = device.inject(fault);
}

#[test]
fn the_oracle_sees_lies_losses_and_corruption() {
    assert_eq!(found(|_| {}), 0);
    assert!(found(|d| d.lie_on_flush(true)) > 80);
    assert!(found(|d| inject(d, Fault::everywhere(On::Writes, Effect::Lose).times(3))) > 50);
    assert!(found(|d| inject(d, Fault::everywhere(On::Writes, Effect::Corrupt).times(3))) > 50);
    assert!(found(|d| inject(d, Fault::everywhere(On::Reads, Effect::Corrupt).times(1))) > 80);
    assert!(found(|d| inject(d, Fault::everywhere(On::Flushes, Effect::Lose))) > 40);
}

#[test]
fn a_refused_write_must_not_be_seen() {
    let mut o = Oracle::new(512);
    let (w, data) = o.write(0..1, false);
    o.write_refused(w);
    let r = o.read(0..1);
    assert_eq!(
        o.read_done(r, &data),
        Err(Violation { block: 0, found: Some(Stamp(1)), legal: vec![Stamp(0)] })
    );
    let f = o.flush();
    o.flush_lost(f);
    o.flush_done(f, true);
    assert_eq!(o.after_crash(0), [Stamp(0)]);
}

#[test]
fn the_oracle_forgets_what_no_longer_matters() {
    let mut o = Oracle::new(512);
    for _ in 0..1000 {
        let (w, _) = o.write(0..4, true);
        o.write_done(w, true);
    }
    assert_eq!(o.after_crash(0).len(), 1);
    assert_eq!(format!("{o:?}").matches("Write {").count(), 4, "one version for each block");
}

#[test]
fn the_device_is_shared_between_threads() {
    let d = calm();
    let other = d.clone();
    std::thread::scope(|s| {
        s.spawn(move || {
            let n = Node::new(&other);
            n.write(0, 3, false).unwrap();
        });
    });
    assert_eq!(Node::new(&d).read(0), Ok(3));
}
