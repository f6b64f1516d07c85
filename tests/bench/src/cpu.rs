//! What a process used: CPU time, memory, and where it may run.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time of all threads of a process since its start, at the scheduler's resolution.
pub fn process_time(pid: u32) -> Result<Duration> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` is a valid place for the result.
    let rc = unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock) };
    if rc != 0 {
        return Err(std::io::Error::from_raw_os_error(rc)).context("clock_getcpuclockid");
    }
    clock_time(clock)
}

/// CPU time of the calling thread.
pub fn thread_time() -> Result<Duration> {
    clock_time(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn clock_time(clock: libc::clockid_t) -> Result<Duration> {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid place for the result.
    if unsafe { libc::clock_gettime(clock, &mut t) } != 0 {
        return Err(std::io::Error::last_os_error()).context("clock_gettime");
    }
    Ok(Duration::new(t.tv_sec as u64, t.tv_nsec as u32))
}

/// Resident memory of a process, bytes.
pub fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
}

/// The process, or the calling thread where `pid` is `None`, runs on this core alone.
pub fn pin(pid: Option<u32>, core: usize) -> std::io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    let pid = pid.and_then(|p| rustix::process::Pid::from_raw(p as i32));
    Ok(rustix::thread::sched_setaffinity(pid, &set)?)
}

/// CPU time of the children that were waited for.
pub fn children_time() -> Result<Duration> {
    // SAFETY: a rusage of zeroes is a valid place for the result.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is a valid place for the result.
    if unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage) } != 0 {
        return Err(std::io::Error::last_os_error()).context("getrusage");
    }
    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    Ok(time(usage.ru_utime) + time(usage.ru_stime))
}
