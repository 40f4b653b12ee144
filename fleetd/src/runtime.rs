//! The threads that fleetd works with: one for everything that may wait, and a few for what blocks.
//!
//! Made once by `main`, before anything else has a chance to take what threads the machine has left.

use std::io;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// Blocking calls at once; more wait for their turn. They write small files and encode large answers.
const WORKERS: usize = 4;
/// As good as for ever, and still a time that can be added to a clock.
const KEPT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A runtime whose thread for blocking calls is there already, and stays. With one that lives, a call for which there is
/// no thread more waits for its turn; with none, the attempt to start one is a panic, which would be the end of fleetd on
/// a machine that is short of processes for a moment.
///
/// # Errors
/// A thread or a descriptor cannot be had.
pub fn build() -> io::Result<Runtime> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(WORKERS)
        .thread_keep_alive(KEPT)
        .build()?;
    // Asked for by way of a thread that says why it cannot be had.
    std::thread::Builder::new()
        .name("first".to_owned())
        .spawn(|| ())?
        .join()
        .map_err(|_| io::Error::other("the first thread ended early"))?;
    runtime.block_on(async { tokio::task::spawn_blocking(|| ()).await }).map_err(io::Error::other)?;
    Ok(runtime)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// In a process of its own, whose address space is made too small for the stack of another thread.
    const ROLE: &str = "FLEET_TEST_SHORT_OF_THREADS";
    const TEST: &str = "runtime::tests::without_threads_to_be_had_blocking_calls_wait_and_nothing_panics";

    #[test]
    fn without_threads_to_be_had_blocking_calls_wait_and_nothing_panics() {
        if std::env::var_os(ROLE).is_some() {
            return short_of_threads();
        }
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", TEST, "--nocapture"])
            .env(ROLE, "1")
            .output()
            .unwrap();
        let told = [output.stdout, output.stderr].map(|told| String::from_utf8_lossy(&told).into_owned());
        assert!(output.status.success() && told[0].contains("1 passed"), "{}\n{}", told[0], told[1]);
    }

    fn short_of_threads() {
        let runtime = build().unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
        let kib: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
        let limit = format!("--as={}", (kib + 1024) * 1024);
        let pid = std::process::id().to_string();
        assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
        let big = std::thread::Builder::new().stack_size(2 << 20);
        let error = big.spawn(|| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "the limit does not bite");
        runtime.block_on(async {
            let calls: Vec<_> = (0..8_u8).map(|n| tokio::task::spawn_blocking(move || n)).collect();
            for (n, call) in (0..).zip(calls) {
                assert_eq!(call.await.unwrap(), n);
            }
        });
    }
}
