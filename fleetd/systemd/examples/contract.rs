//! Runs the contract and the figures of bulk starts against a real machine: `contract [ROOT [COMMAND...]]`, where
//! ROOT is the machine's file tree (`/proc/<leader>/root` for a container); without it, this machine. Each COMMAND
//! is a shell line that disturbs the machine (re-executes PID 1, kills the bus), which must be survived. Needs root.

use std::path::PathBuf;

use tokio::process::Command;

use fleet_systemd::{DbusSystemd, Options, contract};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let root: PathBuf = std::env::args_os().nth(1).unwrap_or_else(|| "/".into()).into();
    let bus_address = Some(format!("unix:path={}", root.join("run/dbus/system_bus_socket").display()));
    let systemd =
        DbusSystemd::connect(Options { bus_address, root, ..Options::default() }).await.expect("connect");
    contract::contract(&systemd).await;
    for line in std::env::args().skip(2) {
        contract::survives(&systemd, async || {
            let status = Command::new("sh").args(["-c", &line]).status().await.expect("run the command");
            assert!(status.success(), "{line}: {status}");
        })
        .await;
    }
    for (count, with_pins) in [(1, false), (100, false), (100, true), (300, false), (300, true)] {
        let figures = contract::measure_starts(&systemd, count, with_pins).await;
        #[expect(clippy::print_stdout, reason = "the output of this program")]
        {
            println!("{count} units, pins {with_pins}: {figures:?}");
        }
    }
}
