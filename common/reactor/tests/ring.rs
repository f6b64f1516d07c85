//! The ring with real sockets, files and threads.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    clippy::needless_pass_by_value
)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base::Entropy;
use base::random::SeededRandom;
use block::{BlockDevice, Buf, ExtentState, IoErrorKind, MemoryDevice, Op};
use plinth_reactor::{
    Blocking, Event, FileDevice, FileError, FileOptions, Gather, Handle, Mailbox, Part, Ring, clock, net,
};

fn next(ring: &Ring) -> Event {
    let deadline = clock::now() + Duration::from_secs(10);
    loop {
        if let Some(e) = ring.next_event() {
            return e;
        }
        assert!(clock::now() < deadline, "nothing happened in 10 s");
        ring.turn(deadline).unwrap();
    }
}

fn sparse_file(bytes: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(bytes).unwrap();
    file
}

#[test]
fn accepts_receives_in_two_parts_and_sends_gathered() {
    let ring = Ring::new().unwrap();
    let listener = net::listen("127.0.0.1:0".parse().unwrap(), false).unwrap();
    let address = net::local(&listener).unwrap();
    let listener = Handle::new(&ring, listener);
    ring.accept(&listener, 1);
    let mut client = TcpStream::connect(address).unwrap();
    let Event::Accepted { token: 1, result } = next(&ring) else { panic!("no connection") };
    let socket = result.unwrap();
    net::tune(&socket).unwrap();
    assert_eq!(net::peer(&socket).unwrap(), client.local_addr().unwrap());
    let socket = Handle::new(&ring, socket);

    client.write_all(b"hello world").unwrap();
    let mut first = ring.pool().get(5);
    first.truncate(5);
    ring.receive(&socket, 2, [first, ring.pool().get(100)].into_iter().collect());
    let Event::Received { token: 2, bufs, result } = next(&ring) else { panic!("nothing received") };
    assert_eq!(result.unwrap(), 11);
    assert_eq!((&bufs[0][..], &bufs[1][..6]), (&b"hello"[..], &b" world"[..]));

    let gather = Gather { headers: b"<>".to_vec(), bufs: vec![Buf::copy_of(b"abcdef")] };
    let parts = [
        Part::Header { start: 0, len: 1 },
        Part::Buf { index: 0, start: 1, len: 4 },
        Part::Header { start: 1, len: 1 },
    ];
    ring.send(&socket, 3, gather, parts.into_iter());
    let Event::Sent { token: 3, result, .. } = next(&ring) else { panic!("nothing sent") };
    assert_eq!(result.unwrap(), 6);
    let mut got = [0; 6];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"<bcde>");

    ring.receive(&socket, 4, std::iter::once(ring.pool().get(10)).collect());
    drop(client);
    let Event::Received { token: 4, result, .. } = next(&ring) else { panic!("no end") };
    assert_eq!(result.unwrap(), 0);
}

#[test]
fn a_ring_dropped_with_operations_in_flight_ends() {
    let ring = Ring::new().unwrap();
    let listener = net::listen("[::1]:0".parse().unwrap(), false).unwrap();
    let address = net::local(&listener).unwrap();
    let listener = Handle::new(&ring, listener);
    ring.accept(&listener, 1);
    let _client = TcpStream::connect(address).unwrap();
    let Event::Accepted { result, .. } = next(&ring) else { panic!("no connection") };
    let socket = Handle::new(&ring, result.unwrap());
    ring.receive(&socket, 2, std::iter::once(ring.pool().get(4096)).collect());
    ring.accept(&listener, 3);
    ring.turn(base::Mono::ZERO).unwrap();
    drop((socket, listener));
    drop(ring);
}

#[test]
fn mail_wakes_a_sleeping_ring_and_a_full_box_refuses() {
    let ring = Ring::new().unwrap();
    let mailbox = Mailbox::new(&ring, 2);
    let post = mailbox.post();
    let sender = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        post.send(1).unwrap();
        post.send(2).unwrap();
        assert_eq!(post.send(3).unwrap_err().0, 3);
    });
    sender.join().unwrap();
    assert!(matches!(next(&ring), Event::Woken));
    assert_eq!((mailbox.take(), mailbox.take(), mailbox.take()), (Some(1), Some(2), None));
    mailbox.post().send(4).unwrap();
    assert!(matches!(next(&ring), Event::Woken));
    assert_eq!(mailbox.take(), Some(4));
}

#[test]
fn an_idle_ring_costs_no_cpu() {
    let ring = Ring::new().unwrap();
    let before = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let end = clock::now() + Duration::from_secs(1);
    let mut turns = 0;
    while clock::now() < end {
        ring.turn(end).unwrap();
        turns += 1;
    }
    let after = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let used = (after.tv_sec - before.tv_sec) * 1_000_000_000 + (after.tv_nsec - before.tv_nsec);
    assert!(turns < 10, "{turns} turns while there was nothing to do");
    assert!(used < 20_000_000, "{used} ns of CPU while there was nothing to do");
}

/// The same random operations on a file and on memory give the same bytes.
fn compare_with_memory(options: FileOptions, seed: u64) {
    const SIZE: u64 = 1 << 20;
    let block = u64::from(options.block_bytes);
    let file = sparse_file(SIZE);
    let ours = Blocking::open(Arc::new(FileDevice::open(file.path(), options.clone()).unwrap())).unwrap();
    let model = Blocking::open(Arc::new(MemoryDevice::new(SIZE, options.block_bytes))).unwrap();
    let mut random = SeededRandom::new(seed);
    for _ in 0..300 {
        let offset = random.below(SIZE / block) * block;
        let len = (1 + random.below(64)).min((SIZE - offset) / block) * block;
        match random.below(6) {
            0 | 1 => {
                let mut data = vec![0; len as usize];
                random.fill(&mut data);
                let fua = random.below(2) == 0;
                assert_eq!(ours.write(offset, &data, fua), Ok(()));
                assert_eq!(model.write(offset, &data, fua), Ok(()));
            }
            2 => {
                let op = Op::WriteZeroes { unmap: random.below(2) == 0 };
                assert!(ours.apply(op, offset, len).is_ok() && model.apply(op, offset, len).is_ok());
            }
            3 => assert_eq!(ours.flush(), Ok(())),
            _ => {
                let (a, b) =
                    (ours.read(offset, len as usize).unwrap(), model.read(offset, len as usize).unwrap());
                assert!(*a == *b, "seed {seed}: {len} bytes at {offset} differ");
            }
        }
    }
}

#[test]
fn a_file_behaves_like_memory() {
    for seed in 0..4 {
        compare_with_memory(FileOptions::default(), seed);
        compare_with_memory(FileOptions { sync: true, block_bytes: 4096, ..FileOptions::default() }, seed);
    }
}

#[test]
fn a_direct_file_behaves_like_memory() {
    let probe = sparse_file(1 << 20);
    let options = FileOptions { direct: true, block_bytes: 4096, ..FileOptions::default() };
    match FileDevice::open(probe.path(), options.clone()) {
        Ok(_) => (0..4).for_each(|seed| compare_with_memory(options.clone(), seed)),
        // A memory file system may refuse O_DIRECT, and then says so at open.
        Err(e) => assert!(matches!(e, FileError::Open { .. }), "{e}"),
    }
}

#[test]
fn unaligned_memory_is_bounced_for_a_direct_file() {
    let file = sparse_file(1 << 16);
    let options = FileOptions { direct: true, ..FileOptions::default() };
    let Ok(device) = FileDevice::open(file.path(), options) else { return };
    let ring = Ring::new().unwrap();
    let channel = device.open(&ring.channel_context()).unwrap();
    struct Sink(std::cell::RefCell<Option<block::Request>>);
    impl block::Complete for Sink {
        fn complete(&self, _: u64, request: block::Request) {
            *self.0.borrow_mut() = Some(request);
        }
    }
    let sink = Rc::new(Sink(None.into()));
    let run = |mut request: block::Request| {
        request.push_frame(Rc::clone(&sink) as Rc<dyn block::Complete>, 0);
        channel.submit(request);
        loop {
            ring.completions().run();
            if let Some(r) = sink.0.borrow_mut().take() {
                r.result.unwrap();
                return r;
            }
            ring.turn(clock::now() + Duration::from_secs(1)).unwrap();
        }
    };
    let mut odd = Buf::zeroed(8192);
    odd.fill(7);
    odd.narrow(100..100 + 4096);
    run(block::Request::write(4096, std::iter::once(odd).collect(), true));
    let mut back = Buf::zeroed(8192);
    back.narrow(33..33 + 4096);
    let back = run(block::Request::read(4096, std::iter::once(back).collect()));
    assert!(back.bufs[0].iter().all(|&b| b == 7));
}

#[test]
fn holes_are_mapped_punched_and_reported() {
    let file = sparse_file(1 << 20);
    let device = Arc::new(FileDevice::open(file.path(), FileOptions::default()).unwrap());
    let d = Blocking::open(Arc::clone(&device) as Arc<dyn BlockDevice>).unwrap();
    d.write(256 << 10, &vec![1; 64 << 10], false).unwrap();
    let states = |d: &Blocking| -> Vec<_> {
        d.apply(Op::Map, 0, 1 << 20).unwrap().iter().map(|e| (e.offset >> 10, e.len >> 10, e.state)).collect()
    };
    use ExtentState::{Hole, Mapped};
    assert_eq!(states(&d), [(0, 256, Hole), (256, 64, Mapped), (320, 704, Hole)]);
    d.apply(Op::Discard, 256 << 10, 32 << 10).unwrap();
    assert_eq!(states(&d), [(0, 288, Hole), (288, 32, Mapped), (320, 704, Hole)]);
}

#[test]
fn growth_is_noticed_and_a_cut_file_is_an_error() {
    let file = sparse_file(1 << 20);
    let device = Arc::new(FileDevice::open(file.path(), FileOptions::default()).unwrap());
    struct Watch(std::sync::Mutex<u64>);
    impl block::ResizeWatcher for Watch {
        fn resized(&self, geometry: block::Geometry) {
            *self.0.lock().unwrap() = geometry.size_bytes;
        }
    }
    let watch = Arc::new(Watch(0.into()));
    let weak = Arc::downgrade(&watch);
    device.watch(weak);
    file.as_file().set_len((2 << 20) + 100).unwrap();
    assert_eq!(device.refresh().unwrap().size_bytes, 2 << 20);
    assert_eq!(*watch.0.lock().unwrap(), 2 << 20);
    let d = Blocking::open(Arc::clone(&device) as Arc<dyn BlockDevice>).unwrap();
    file.as_file().set_len(4096).unwrap();
    assert_eq!(d.read(8192, 512).unwrap_err().kind, IoErrorKind::Medium);
}

#[test]
fn a_file_has_one_writer_and_a_directory_is_no_disk() {
    let file = sparse_file(1 << 20);
    let first = FileDevice::open(file.path(), FileOptions::default()).unwrap();
    let second = FileDevice::open(file.path(), FileOptions::default());
    assert!(matches!(second, Err(FileError::InUse { .. })));
    drop(first);
    assert!(FileDevice::open(file.path(), FileOptions::default()).is_ok());
    assert!(matches!(
        FileDevice::open(
            std::path::Path::new("/"),
            FileOptions { read_only: true, ..FileOptions::default() }
        ),
        Err(FileError::NotADisk { .. })
    ));
    let odd = FileOptions { block_bytes: 520, ..FileOptions::default() };
    assert!(matches!(FileDevice::open(file.path(), odd), Err(FileError::BlockSize { .. })));
}

#[test]
fn a_read_only_device_refuses_changes() {
    let file = sparse_file(1 << 20);
    let device =
        FileDevice::open(file.path(), FileOptions { read_only: true, ..FileOptions::default() }).unwrap();
    let d = Blocking::open(Arc::new(device)).unwrap();
    assert_eq!(d.write(0, &[0; 512], false).unwrap_err().kind, IoErrorKind::ReadOnly);
    assert_eq!(d.apply(Op::Discard, 0, 512).unwrap_err().kind, IoErrorKind::ReadOnly);
    assert!(d.read(0, 512).is_ok());
}

#[test]
fn a_device_that_is_closed_can_be_opened_again_at_once() {
    let file = sparse_file(1 << 20);
    for _ in 0..50 {
        let device = FileDevice::open(file.path(), FileOptions::default()).unwrap();
        let d = Blocking::open(Arc::new(device)).unwrap();
        d.write(0, &[1; 512], false).unwrap();
        d.flush().unwrap();
    }
}
