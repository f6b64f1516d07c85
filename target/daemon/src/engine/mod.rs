//! The engine: reactor threads that carry sessions and run SCSI tasks on block devices.
//!
//! ```text
//!  control thread ── Backend ──▶ Mail ──▶ ┌ Worker 0 ┐ ┌ Worker 1 ┐ ...   one a core
//!        ▲                                │ Ring     │ │          │
//!        └─────────── answers ◀───────────│ Machine  │◀┼── Mail ──┤  task management, moved connections
//!                                         │ tasks    │ │          │
//!                                         └──────────┘ └──────────┘
//! ```
//!
//! Invariants: a session lives on one worker with all of its connections; a request is submitted and completed on
//! that worker; nothing on the way of a request waits for another thread, but for task management, reservations that
//! abort, and the durable write of a reservation. What threads share is in [`shared::Shared`]: the snapshot that
//! logins are decided by, the table of units, the table of sessions.

mod backend;
mod connections;
mod convert;
mod counters;
mod directory;
mod mail;
mod manage;
mod shared;
mod state_writer;
mod tasks;
mod throttle;
mod worker;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use base::Root;

pub use backend::EngineBackend;
use mail::Mail;
use shared::Shared;

/// How the engine is set up.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Reactor threads; 0 takes one for each core that the process may run on.
    pub threads: usize,
    /// Where state is kept.
    pub root: Root,
    /// Commands that take longer are logged, milliseconds; 0: none.
    pub slow_request_ms: u64,
    /// Threads spin a little before they sleep.
    pub spin: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig { threads: 0, root: Root::default(), slow_request_ms: 2000, spin: true }
    }
}

/// A running engine.
pub struct Engine {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Starts the reactor threads and what goes with them. Fails where the system has no io_uring or no threads left.
    pub fn start(config: EngineConfig) -> io::Result<Engine> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let count = if config.threads == 0 { cores } else { config.threads };
        let shared = Arc::new(Shared::new(config, count)?);
        let mut threads = Vec::with_capacity(count);
        let (ready, started) = std::sync::mpsc::sync_channel(count);
        for index in 0..count {
            let (shared, ready) = (Arc::clone(&shared), ready.clone());
            let body = move || worker::run(index as u32, &shared, &ready);
            threads.push(std::thread::Builder::new().name(format!("reactor-{index}")).spawn(body)?);
        }
        drop(ready);
        let mut posts = Vec::with_capacity(count);
        for _ in 0..count {
            posts.push(started.recv().map_err(|_| io::Error::other("a reactor thread ended at its start"))??);
        }
        posts.sort_by_key(|(index, _)| *index);
        shared.set_posts(posts.into_iter().map(|(_, post)| post).collect());
        shared.watch_sizes();
        Ok(Engine { shared, threads })
    }

    /// What the control plane drives the engine with.
    pub fn backend(&self) -> EngineBackend {
        EngineBackend::new(Arc::clone(&self.shared))
    }

    /// Number of reactor threads.
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Ends every session and every thread. Replies that were on their way may be lost; acknowledged writes are not.
    pub fn stop(self) {
        self.shared.stop_watching();
        for post in self.shared.posts() {
            // A full mailbox is emptied by its worker within a moment.
            let mut mail = Mail::Stop;
            while let Err(full) = post.send(mail) {
                mail = full.0;
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a reactor thread panicked");
            }
        }
    }
}
