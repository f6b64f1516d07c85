//! A lane for the few system calls that may block and that the ring has no operation for (SEEK_DATA and SEEK_HOLE): one
//! thread of the process, started at first need.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

/// Jobs that wait at most; more are refused.
const QUEUE_MAX: usize = 1024;

type Job = Box<dyn FnOnce() + Send>;

static LANE: Mutex<Option<SyncSender<Job>>> = Mutex::new(None);

/// Runs `job` on the lane. Returns false, without running it, where the lane is full or no thread can be had.
#[must_use]
pub(crate) fn run(job: Job) -> bool {
    let mut lane = LANE.lock().unwrap_or_else(PoisonError::into_inner);
    if lane.is_none() {
        let (sender, jobs) = sync_channel::<Job>(QUEUE_MAX);
        let started = std::thread::Builder::new().name("blocking-lane".into()).spawn(move || {
            for job in jobs {
                job();
            }
        });
        if started.is_err() {
            return false;
        }
        *lane = Some(sender);
    }
    lane.as_ref().is_some_and(|l| l.try_send(job).is_ok())
}
